//! The fault loop: one thread answers a guest's page faults until its VMM is gone.
//!
//! ```text
//!  fault at a page ─► given back before?        zero
//!                     in the delta?             its whole chunk: what was written together is wanted together
//!                     named there, in the base? as well: all pages of that chunk
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

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::{
    base::Base,
    handshake::Region,
    index::{Chunk, PAGE},
    place::{Flow, Place},
    read::{PageFile, ReadError, Scratch},
    uffd::{Event, Events, Uffd},
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
    place: Place,
    sources: Sources,
    pending: Vec<u64>,
    working_set: Vec<u32>,
    next_ahead: usize,
    scratch: Scratch,
    stats: Stats,
}

/// Can be read when a fault waits.
impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }
}

impl Server {
    /// A server of this memory.
    ///
    /// # Errors
    /// When there is no memory for its buffers.
    pub fn new(uffd: Uffd, regions: Vec<Region>, sources: Sources) -> io::Result<Self> {
        Ok(Self {
            place: Place::new(uffd, regions, sources.memory_pages),
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

    /// How many pages lie in the page file.
    #[must_use]
    pub fn delta_pages(&self) -> u64 {
        self.sources.delta.as_ref().map_or(0, |delta| delta.index().stored_pages().count() as u64)
    }

    /// The pages that were put because they or their neighbours were asked for, or ahead, in that order;
    /// at most [`WORKING_SET_MAX`].
    #[must_use]
    pub fn working_set(&self) -> &[u32] {
        &self.working_set
    }

    /// Where the guest's memory lies in the VMM.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.place.regions()
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
                    PollFd::new(&self.place, PollFlags::IN),
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

    /// Answers what waits now; [`Server::run`] without its loop, for measurements.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn answer_once(&mut self, events: &mut Events) -> Result<(), ServeError> {
        self.answer(events).map(drop)
    }

    /// Reads what happened and answers all of it.
    fn answer(&mut self, events: &mut Events) -> Result<Flow, ServeError> {
        // Removals count before the faults that came with them: the kernel lets a page be touched
        // again only once its removal was read.
        let mut faults = [0u64; 64];
        let mut count = 0;
        for event in self.place.read(events)? {
            match event {
                Event::Fault(address) => {
                    if let Some(slot) = faults.get_mut(count) {
                        *slot = address;
                        count += 1;
                    }
                }
                Event::Remove { start, end } => {
                    self.place.remove(start, end);
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
        let page = self.place.page_of(address).ok_or(ServeError::Address(address))?;
        let flow = if self.place.is_there(page) {
            // Two threads waited for one page, or a removal was undone meanwhile.
            self.place.wake(address)?;
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
        if self.place.was_removed(page) {
            return self.zero(page);
        }
        if let Some(chunk) = self.sources.delta.as_ref().and_then(|delta| delta.index().find(page))
        {
            return self.put_chunk(chunk);
        }
        match &self.sources.base {
            Some(base) if base.has(page) => {
                let content = base.group(&[page], &mut self.scratch)?;
                let (place, count) = (&mut self.place, &mut self.stats.base_pages);
                put_wanted(place, &[page], content, &mut self.working_set, count)
            }
            Some(_) | None => self.zero(page),
        }
    }

    /// Puts what of a chunk of the page file is not there yet, wherever its pages lie.
    fn put_chunk(&mut self, number: usize) -> Result<Flow, ServeError> {
        let Sources { delta: Some(delta), base, .. } = &self.sources else {
            return Ok(Flow::Done);
        };
        let pages = delta.index().pages_of(number);
        let is_base = delta.index().chunks().get(number).is_some_and(Chunk::is_base);
        let (content, count) = if is_base {
            let base = base.as_ref().ok_or(ReadError::NoBase)?;
            (base.group(pages, &mut self.scratch)?, &mut self.stats.base_pages)
        } else {
            let content = delta.chunk(number, &mut self.scratch)?;
            self.stats.chunks_opened += 1;
            (content, &mut self.stats.delta_pages)
        };
        put_wanted(&mut self.place, pages, content, &mut self.working_set, count)
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
                match self.place.zero(first, count)? {
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
            && !self.place.is_there(page)
            && (self.place.was_removed(page)
                || delta.as_ref().is_none_or(|delta| delta.index().find(page).is_none())
                    && base.as_ref().is_none_or(|base| !base.has(page)))
    }

    /// Puts the next chunk of the working set.
    fn go_ahead(&mut self) -> Result<Flow, ServeError> {
        if !self.pending.is_empty() {
            return self.retry();
        }
        let put = |stats: &Stats| stats.delta_pages + stats.base_pages;
        let before = put(&self.stats);
        let flow = self.put_chunk(self.next_ahead)?;
        self.stats.prefetched += put(&self.stats) - before;
        if flow == Flow::Done {
            self.next_ahead += 1;
        }
        Ok(flow)
    }
}

/// Puts those of `pages` that are not there, counts and remembers them.
fn put_wanted(
    place: &mut Place,
    pages: &[u32],
    content: &[u8],
    working_set: &mut Vec<u32>,
    count: &mut u64,
) -> Result<Flow, ServeError> {
    let mut at = 0;
    while let Some(run) = place.next_run(pages, at) {
        let own = pages.get(run.clone()).unwrap_or_default();
        let bytes = content.get(run.start * PAGE..run.end * PAGE).unwrap_or_default();
        let Some(first) = own.first() else { break };
        match place.put(*first, bytes)? {
            Flow::Done => {}
            flow @ (Flow::Again | Flow::Gone) => return Ok(flow),
        }
        *count += own.len() as u64;
        remember(working_set, own);
        at = run.end;
    }
    Ok(Flow::Done)
}

/// Adds to a working set what has room.
fn remember(working_set: &mut Vec<u32>, pages: &[u32]) {
    let room = WORKING_SET_MAX.saturating_sub(working_set.len());
    working_set.extend_from_slice(pages.get(..room).unwrap_or(pages));
}
