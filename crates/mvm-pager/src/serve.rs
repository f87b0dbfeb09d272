//! The fault loop: one thread answers a guest's page faults until its VMM is gone.
//!
//! ```text
//!  fault at a page ─► given back before?        zero
//!                     in the delta?             its whole chunk: what was written together is wanted together
//!                     in the base?              that page alone: a private copy is the guest's to pay
//!                     else                      zero, with its neighbours: zero pages cost nothing
//!  before the first fault, then idle ─► the next chunk of the recorded working set, which lies in front
//! ```
//!
//! The first [`EAGER`] chunks of the working set go before any fault: whoever waits at one is let go by
//! the page itself, and a fault costs as much as a chunk. What is recorded beyond them waits for idleness.
//!
//! Nothing is allocated in here after [`Server::new`]. What cannot be verified ends the server with an
//! error, and whoever watches it ends the VM: a guest never sees a page that may be wrong.

use std::{io, os::fd::AsFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::{
    base::Base,
    bits::Bits,
    handshake::Region,
    index::PAGE,
    read::{PageFile, ReadError, Scratch},
    uffd::{Event, Events, Put, Uffd},
};

/// The most pages of a working set that are remembered: 64 MiB.
pub const WORKING_SET_MAX: usize = 1 << 14;
/// How far around a zero page its neighbours are made zero too, in pages; a power of two. What one page
/// of the VMM's page tables describes: they all are the kernel's one zero page until they are written.
const ZERO_AROUND: u32 = 512;
/// How many chunks of the working set come before any fault: 16 MiB, some 10 ms sealed (`examples/rates`).
pub const EAGER: usize = 256;
/// The most faults that wait for an event to be read: more than a VMM has threads.
const PENDING_MAX: usize = 256;

/// What a server did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Faults that were answered.
    pub faults: u64,
    /// Pages put from the delta.
    pub delta_pages: u64,
    /// Pages put from the base.
    pub base_pages: u64,
    /// Pages made zero.
    pub zero_pages: u64,
    /// Chunks opened.
    pub chunks_opened: u64,
    /// Pages put before anybody asked.
    pub prefetched: u64,
    /// Pages given back by the guest.
    pub removed: u64,
}

/// Why a server ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The VMM is gone.
    Gone,
    /// It was told to.
    Told,
}

/// Why a server had to end.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A page could not be read or did not verify.
    #[error("a page of the guest cannot be had")]
    Page(#[from] ReadError),
    /// A page could not be read from the base.
    #[error("a page of the base cannot be had")]
    Base(#[source] io::Error),
    /// The kernel refused.
    #[error("the kernel refuses")]
    Kernel(#[from] io::Error),
    /// A fault outside of the guest's memory.
    #[error("a fault at {0:#x}, which is not the guest's memory")]
    Address(u64),
    /// An event that was not asked for.
    #[error("an unknown event {0:#x}")]
    Event(u8),
}

/// Whether work on a fault is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Done,
    /// An event has to be read first.
    Again,
    Gone,
}

/// Where the pages of a guest come from.
#[derive(Debug)]
pub struct Sources {
    /// How many pages the guest has.
    pub memory_pages: u64,
    /// What differs from the base.
    pub delta: Option<PageFile>,
    /// What most guests of the pool have in common.
    pub base: Option<Base>,
    /// How many chunks at the front of the delta are the working set.
    pub ahead: usize,
}

/// The page server of one VM.
#[derive(Debug)]
pub struct Server {
    uffd: Uffd,
    regions: Vec<Region>,
    sources: Sources,
    served: Bits,
    removed: Bits,
    pending: Vec<u64>,
    working_set: Vec<u32>,
    next_ahead: usize,
    scratch: Scratch,
    stats: Stats,
}

impl Server {
    /// A server of this memory.
    ///
    /// # Errors
    /// When there is no memory for its buffers.
    pub fn new(uffd: Uffd, regions: Vec<Region>, sources: Sources) -> io::Result<Self> {
        let pages = sources.memory_pages;
        Ok(Self {
            uffd,
            regions,
            served: Bits::new(pages),
            removed: Bits::new(pages),
            pending: Vec::with_capacity(PENDING_MAX),
            working_set: Vec::with_capacity(WORKING_SET_MAX),
            next_ahead: 0,
            scratch: Scratch::new()?,
            stats: Stats::default(),
            sources,
        })
    }

    /// What it did so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// How many pages the page file has.
    #[must_use]
    pub fn delta_pages(&self) -> u64 {
        self.sources.delta.as_ref().map_or(0, |delta| delta.index().pages().len() as u64)
    }

    /// The pages that were put because they or their neighbours were asked for, or ahead, in that order;
    /// at most [`WORKING_SET_MAX`].
    #[must_use]
    pub fn working_set(&self) -> &[u32] {
        &self.working_set
    }

    /// Serves until the VMM is gone or `control` can be read. `vmm` is the VMM's pidfd: a userfaultfd
    /// does not tell that the memory behind it is gone.
    ///
    /// # Errors
    /// Why the guest cannot go on.
    pub fn run(&mut self, control: impl AsFd, vmm: impl AsFd) -> Result<End, ServeError> {
        let mut events = Events::default();
        loop {
            let is_idle = self.next_ahead >= self.sources.ahead && self.pending.is_empty();
            let (uffd, told, gone) = {
                let mut fds = [
                    PollFd::new(&self.uffd, PollFlags::IN),
                    PollFd::new(&control, PollFlags::IN),
                    PollFd::new(&vmm, PollFlags::IN),
                ];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                match poll(&mut fds, if is_idle { None } else { Some(&now) }) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(ServeError::Kernel(error.into())),
                }
                let [uffd, told, gone] = &fds;
                (uffd.revents(), told.revents(), gone.revents())
            };
            if !gone.is_empty() {
                return Ok(End::Gone);
            }
            let is_eager = self.next_ahead < self.sources.ahead.min(EAGER);
            let ahead = if is_eager { self.go_ahead()? } else { Flow::Again };
            let flow = if ahead != Flow::Again {
                ahead
            } else if uffd.contains(PollFlags::IN) {
                self.answer(&mut events)?
            } else if is_eager {
                // An event that has to be read first is on its way.
                Flow::Again
            } else if !told.is_empty() {
                return Ok(End::Told);
            } else {
                self.go_ahead()?
            };
            if flow == Flow::Gone {
                return Ok(End::Gone);
            }
        }
    }

    /// Reads what happened and answers all of it.
    fn answer(&mut self, events: &mut Events) -> Result<Flow, ServeError> {
        // Removals count before the faults that came with them: the kernel lets a page be touched
        // again only once its removal was read.
        let mut faults = [0u64; 64];
        let mut count = 0;
        for event in self.uffd.read(events)? {
            match event {
                Event::Fault(address) => {
                    if let Some(slot) = faults.get_mut(count) {
                        *slot = address;
                        count += 1;
                    }
                }
                Event::Remove { start, end } => {
                    remove(&self.regions, &mut self.removed, &mut self.served, start, end);
                    self.stats.removed += end.saturating_sub(start) / PAGE as u64;
                }
                Event::Other(kind) => return Err(ServeError::Event(kind)),
            }
        }
        if let Flow::Gone = self.retry()? {
            return Ok(Flow::Gone);
        }
        for address in faults.iter().take(count) {
            if self.fault(*address)? == Flow::Gone {
                return Ok(Flow::Gone);
            }
        }
        Ok(Flow::Done)
    }

    /// Tries again what had to wait for an event.
    fn retry(&mut self) -> Result<Flow, ServeError> {
        for _ in 0..self.pending.len() {
            let Some(address) = self.pending.pop() else { break };
            match self.fault(address)? {
                Flow::Done => {}
                Flow::Again => return Ok(Flow::Again),
                Flow::Gone => return Ok(Flow::Gone),
            }
        }
        Ok(Flow::Done)
    }

    /// Answers one fault, or remembers it.
    fn fault(&mut self, address: u64) -> Result<Flow, ServeError> {
        let page = page_of(&self.regions, address).ok_or(ServeError::Address(address))?;
        let flow = if self.served.get(page) {
            // Two threads waited for one page, or a removal was undone meanwhile.
            self.uffd.wake(address & !(PAGE as u64 - 1))?;
            Flow::Done
        } else {
            self.serve(page)?
        };
        match flow {
            Flow::Done => self.stats.faults += 1,
            Flow::Again if self.pending.len() < PENDING_MAX => self.pending.push(address),
            Flow::Again | Flow::Gone => {}
        }
        Ok(flow)
    }

    fn serve(&mut self, page: u32) -> Result<Flow, ServeError> {
        if self.removed.get(page) {
            return self.zero(page);
        }
        if let Some(chunk) = self.sources.delta.as_ref().and_then(|delta| delta.index().find(page))
        {
            return self.put_chunk(chunk);
        }
        match &self.sources.base {
            Some(base) if base.has(page) => {
                base.read(page, self.scratch.page()).map_err(ServeError::Base)?;
                self.stats.base_pages += 1;
                remember(&mut self.working_set, &[page]);
                let (regions, served) = (&self.regions, &mut self.served);
                put_run(&self.uffd, regions, served, page, self.scratch.page())
            }
            Some(_) | None => self.zero(page),
        }
    }

    /// Opens a chunk of the delta and puts what of it is not there yet.
    fn put_chunk(&mut self, number: usize) -> Result<Flow, ServeError> {
        let Some(delta) = &self.sources.delta else { return Ok(Flow::Done) };
        let content = delta.chunk(number, &mut self.scratch)?;
        self.stats.chunks_opened += 1;
        let pages = delta.index().pages_of(number);
        let mut at = 0;
        while let Some(first) = pages.get(at) {
            let wanted = |page: u32| !self.served.get(page) && !self.removed.get(page);
            if !wanted(*first) {
                at += 1;
                continue;
            }
            let follows = |(step, page): &(u32, &u32)| {
                first.checked_add(*step) == Some(**page) && wanted(**page)
            };
            let count = (0..).zip(pages.get(at..).unwrap_or_default()).take_while(follows).count();
            let bytes = content.get(at * PAGE..(at + count) * PAGE).unwrap_or_default();
            match put_run(&self.uffd, &self.regions, &mut self.served, *first, bytes)? {
                Flow::Done => {}
                flow @ (Flow::Again | Flow::Gone) => return Ok(flow),
            }
            self.stats.delta_pages += count as u64;
            remember(&mut self.working_set, pages.get(at..at + count).unwrap_or_default());
            at += count;
        }
        Ok(Flow::Done)
    }

    /// Makes a page zero, then those around it that are zero anyway: the fault waits for its own only.
    fn zero(&mut self, page: u32) -> Result<Flow, ServeError> {
        let start = page & !(ZERO_AROUND - 1);
        let runs = [page..page + 1, start..page, page + 1..start + ZERO_AROUND];
        for range in runs {
            let mut next = range.start;
            while let Some(first) = (next..range.end).find(|page| self.is_zero(*page)) {
                let end = (first..range.end).find(|page| !self.is_zero(*page));
                next = end.unwrap_or(range.end);
                let count = next - first;
                let (uffd, regions) = (&self.uffd, &self.regions);
                match zero_run(uffd, regions, &mut self.served, first, count)? {
                    Flow::Done => self.stats.zero_pages += u64::from(count),
                    flow @ (Flow::Again | Flow::Gone) => return Ok(flow),
                }
            }
        }
        Ok(Flow::Done)
    }

    /// Whether a page is not there yet and will be zero.
    fn is_zero(&self, page: u32) -> bool {
        let Sources { memory_pages, delta, base, .. } = &self.sources;
        u64::from(page) < *memory_pages
            && !self.served.get(page)
            && (self.removed.get(page)
                || delta.as_ref().is_none_or(|delta| delta.index().find(page).is_none())
                    && base.as_ref().is_none_or(|base| !base.has(page)))
    }

    /// Puts the next chunk of the working set.
    fn go_ahead(&mut self) -> Result<Flow, ServeError> {
        if !self.pending.is_empty() {
            return self.retry();
        }
        let number = self.next_ahead;
        let before = self.stats;
        let flow = self.put_chunk(number)?;
        if flow == Flow::Done {
            self.next_ahead += 1;
            self.stats.prefetched += self.stats.delta_pages - before.delta_pages;
        }
        Ok(flow)
    }
}

/// Adds to a working set what has room.
fn remember(working_set: &mut Vec<u32>, pages: &[u32]) {
    let room = WORKING_SET_MAX.saturating_sub(working_set.len());
    working_set.extend_from_slice(pages.get(..room).unwrap_or(pages));
}

/// The page at an address of the VMM.
fn page_of(regions: &[Region], address: u64) -> Option<u32> {
    regions.iter().find_map(|region| {
        let inside = address.checked_sub(region.start).filter(|inside| *inside < region.size)?;
        u32::try_from((region.offset + inside) / PAGE as u64).ok()
    })
}

/// Where a page lies in the VMM, and how many pages of its region follow, itself included.
fn address_of(regions: &[Region], page: u32) -> Option<(u64, u64)> {
    let at = u64::from(page) * PAGE as u64;
    regions.iter().find_map(|region| {
        let inside = at.checked_sub(region.offset).filter(|inside| *inside < region.size)?;
        Some((region.start + inside, (region.size - inside) / PAGE as u64))
    })
}

fn remove(regions: &[Region], removed: &mut Bits, served: &mut Bits, start: u64, end: u64) {
    let mut address = start;
    while address < end {
        if let Some(page) = page_of(regions, address) {
            removed.set(page, true);
            served.set(page, false);
        }
        address += PAGE as u64;
    }
}

/// Puts whole pages from `first` on, across regions and around pages that are there.
fn put_run(
    uffd: &Uffd,
    regions: &[Region],
    served: &mut Bits,
    first: u32,
    bytes: &[u8],
) -> Result<Flow, ServeError> {
    let mut page = first;
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((address, room)) = address_of(regions, page) else {
            return Err(ServeError::Address(u64::from(page) * PAGE as u64));
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX).saturating_mul(PAGE);
        let part = rest.get(..rest.len().min(room)).unwrap_or_default();
        let (done, flow) = settle(uffd, uffd.copy(address, part)?, address, part.len() as u64)?;
        let pages = u32::try_from(done / PAGE as u64).unwrap_or(0);
        (page..page + pages).for_each(|page| served.set(page, true));
        if flow != Flow::Done {
            return Ok(flow);
        }
        page += pages;
        rest = rest.get(usize::try_from(done).unwrap_or(usize::MAX)..).unwrap_or_default();
    }
    Ok(Flow::Done)
}

fn zero_run(
    uffd: &Uffd,
    regions: &[Region],
    served: &mut Bits,
    first: u32,
    count: u32,
) -> Result<Flow, ServeError> {
    let (mut page, end) = (first, first + count);
    while page < end {
        let Some((address, room)) = address_of(regions, page) else {
            return Err(ServeError::Address(u64::from(page) * PAGE as u64));
        };
        let part = room.min(u64::from(end - page));
        let put = uffd.zero(address, part)?;
        let (done, flow) = settle(uffd, put, address, part * PAGE as u64)?;
        let pages = u32::try_from(done / PAGE as u64).unwrap_or(0);
        (page..page + pages).for_each(|page| served.set(page, true));
        if flow != Flow::Done {
            return Ok(flow);
        }
        page += pages;
    }
    Ok(Flow::Done)
}

/// How many bytes are there now, and whether to go on.
fn settle(uffd: &Uffd, put: Put, address: u64, asked: u64) -> io::Result<(u64, Flow)> {
    match put {
        Put::Done => Ok((asked, Flow::Done)),
        Put::Exists(before) => {
            uffd.wake(address + before)?;
            Ok((before + PAGE as u64, Flow::Done))
        }
        Put::Again(before) => Ok((before, Flow::Again)),
        Put::Gone => Ok((0, Flow::Gone)),
    }
}
