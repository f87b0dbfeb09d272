//! A guest's memory in its VMM: where its pages lie, which of them are there, and putting others.
//!
//! It refuses to know where pages come from.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};

use crate::{
    bits::Bits,
    handshake::Region,
    index::PAGE,
    serve::ServeError,
    uffd::{Event, Events, Put, Uffd},
};

/// Whether work on a fault is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Done,
    /// An event has to be read first.
    Again,
    Gone,
}

/// The memory of one guest.
#[derive(Debug)]
pub(crate) struct Place {
    uffd: Uffd,
    regions: Vec<Region>,
    served: Bits,
    removed: Bits,
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

impl Place {
    pub(crate) fn new(uffd: Uffd, regions: Vec<Region>, pages: u64) -> Self {
        Self { uffd, regions, served: Bits::new(pages), removed: Bits::new(pages) }
    }

    pub(crate) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// What happened since.
    pub(crate) fn read<'a>(
        &self,
        events: &'a mut Events,
    ) -> io::Result<impl Iterator<Item = Event> + 'a + use<'a>> {
        self.uffd.read(events)
    }

    /// The page at an address of the VMM.
    pub(crate) fn page_of(&self, address: u64) -> Option<u32> {
        self.regions.iter().find_map(|region| {
            let inside =
                address.checked_sub(region.start).filter(|inside| *inside < region.size)?;
            u32::try_from((region.offset + inside) / PAGE as u64).ok()
        })
    }

    /// Where a page lies in the VMM, and how many pages of its region follow, itself included.
    fn address_of(&self, page: u32) -> Option<(u64, u64)> {
        let at = u64::from(page) * PAGE as u64;
        self.regions.iter().find_map(|region| {
            let inside = at.checked_sub(region.offset).filter(|inside| *inside < region.size)?;
            Some((region.start + inside, (region.size - inside) / PAGE as u64))
        })
    }

    /// Whether a page is there.
    pub(crate) fn is_there(&self, page: u32) -> bool {
        self.served.get(page)
    }

    /// Whether the guest gave a page back.
    pub(crate) fn was_removed(&self, page: u32) -> bool {
        self.removed.get(page)
    }

    /// The next neighbours among `pages`, from the place `at` on, that are not there and were not given
    /// back.
    pub(crate) fn next_run(&self, pages: &[u32], at: usize) -> Option<Range<usize>> {
        let is_wanted = |page: u32| !self.is_there(page) && !self.was_removed(page);
        let rest = pages.get(at..)?;
        let skipped = rest.iter().position(|page| is_wanted(*page))?;
        let rest = rest.get(skipped..)?;
        let first = *rest.first()?;
        let follows = |(step, page): &(u32, &u32)| {
            first.checked_add(*step) == Some(**page) && is_wanted(**page)
        };
        let count = (0..).zip(rest).take_while(follows).count();
        Some(at + skipped..at + skipped + count)
    }

    /// Remembers that these addresses were given back.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        let mut address = start;
        while address < end {
            if let Some(page) = self.page_of(address) {
                self.removed.set(page, true);
                self.served.set(page, false);
            }
            address += PAGE as u64;
        }
    }

    /// Lets go who waits at an address whose page is there.
    pub(crate) fn wake(&self, address: u64) -> io::Result<()> {
        self.uffd.wake(address & !(PAGE as u64 - 1))
    }

    /// Puts whole pages from `first` on, across regions and around pages that are there.
    pub(crate) fn put(&mut self, first: u32, bytes: &[u8]) -> Result<Flow, ServeError> {
        let count = u32::try_from(bytes.len() / PAGE).unwrap_or(u32::MAX);
        self.run(first, count, |uffd, address, part| {
            let part = part.start as usize * PAGE..part.end as usize * PAGE;
            uffd.copy(address, bytes.get(part).unwrap_or_default())
        })
    }

    /// Makes pages zero from `first` on, as [`Place::put`].
    pub(crate) fn zero(&mut self, first: u32, count: u32) -> Result<Flow, ServeError> {
        self.run(first, count, |uffd, address, part| uffd.zero(address, part.len() as u64))
    }

    /// Puts `count` pages by `put`, which is given an address and which of them belong there.
    fn run(
        &mut self,
        first: u32,
        count: u32,
        put: impl Fn(&Uffd, u64, Range<u32>) -> io::Result<Put>,
    ) -> Result<Flow, ServeError> {
        let mut done = 0;
        while done < count {
            let page = first + done;
            let Some((address, room)) = self.address_of(page) else {
                return Err(ServeError::Address(u64::from(page) * PAGE as u64));
            };
            let part = u32::try_from(room).unwrap_or(u32::MAX).min(count - done);
            let bytes = u64::from(part) * PAGE as u64;
            let (bytes, flow) = match put(&self.uffd, address, done..done + part)? {
                Put::Done => (bytes, Flow::Done),
                Put::Exists(before) => {
                    self.wake(address + before)?;
                    (before + PAGE as u64, Flow::Done)
                }
                Put::Again(before) => (before, Flow::Again),
                Put::Gone => (0, Flow::Gone),
            };
            let pages = u32::try_from(bytes / PAGE as u64).unwrap_or(0);
            (page..page + pages).for_each(|page| self.served.set(page, true));
            if flow != Flow::Done {
                return Ok(flow);
            }
            done += pages;
        }
        Ok(Flow::Done)
    }
}
