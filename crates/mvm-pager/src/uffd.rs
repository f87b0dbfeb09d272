//! The kernel's userfaultfd, as far as a page server needs it; the only unsafe code of the pager.
//!
//! Numbers and layouts are those of `linux/userfaultfd.h` (checked against Linux 6.1); all structures
//! are plain integers. It refuses to know where pages come from.
#![expect(unsafe_code, reason = "R12: ioctls on a userfaultfd have no safe form")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::index::PAGE;

const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;

const API: u64 = 0xaa;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const REGISTER_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
/// Bytes of `struct uffd_msg`.
const MESSAGE: usize = 32;

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Range,
    mode: u64,
    zeroed: i64,
}

#[repr(C)]
struct ApiRequest {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// What the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody waits for the page at this address.
    Fault(u64),
    /// The pages from `start` up to `end` were given back: from now on they are zero.
    Remove {
        /// The first address.
        start: u64,
        /// The first one behind.
        end: u64,
    },
    /// Something that was not asked for.
    Other(u8),
}

/// How an attempt to put pages ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// They are there.
    Done,
    /// One was there before; this many bytes were put before it.
    Exists(u64),
    /// An event must be read first; this many bytes were put.
    Again(u64),
    /// The process is gone or is going.
    Gone,
}

/// Messages of the kernel, read many at a time.
#[derive(Debug)]
pub struct Events {
    bytes: [u8; MESSAGE * 64],
}

impl Default for Events {
    fn default() -> Self {
        Self { bytes: [0; MESSAGE * 64] }
    }
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Uffd(OwnedFd);

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Uffd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Uffd {
    /// A userfaultfd of this process that watches `len` bytes at `start`, as Firecracker makes one; for
    /// tests and measurements.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn watch(start: u64, len: u64) -> io::Result<Self> {
        // SAFETY: the call takes flags only; a negative answer is an error.
        let fd =
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us alone.
        let uffd = Self(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) });
        let mut api = ApiRequest { api: API, features: FEATURE_EVENT_REMOVE, ioctls: 0 };
        uffd.ioctl(UFFDIO_API, &mut api)?;
        let range = Range { start, len };
        let mut register = Register { range, mode: REGISTER_MISSING, ioctls: 0 };
        uffd.ioctl(UFFDIO_REGISTER, &mut register)?;
        Ok(uffd)
    }

    /// Reads what happened since; none when nothing did. The descriptor must not block.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn read<'a>(
        &self,
        events: &'a mut Events,
    ) -> io::Result<impl Iterator<Item = Event> + 'a + use<'a>> {
        let length = match rustix::io::read(&self.0, &mut events.bytes[..]) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let (messages, _) = events.bytes.as_chunks::<MESSAGE>();
        Ok(messages.iter().take(length / MESSAGE).map(parse))
    }

    /// Puts a copy of whole pages at `address`, and wakes who waits there.
    ///
    /// # Errors
    /// What the kernel refuses for a reason that does not pass.
    pub fn copy(&self, address: u64, pages: &[u8]) -> io::Result<Put> {
        let len = pages.len() as u64;
        let src = pages.as_ptr().expose_provenance() as u64;
        let mut copy = Copy { dst: address, src, len, mode: 0, copied: 0 };
        let done = self.ioctl(UFFDIO_COPY, &mut copy);
        put(done, copy.copied)
    }

    /// Puts pages of zeros.
    ///
    /// # Errors
    /// As [`Uffd::copy`].
    pub fn zero(&self, address: u64, pages: u64) -> io::Result<Put> {
        let range = Range { start: address, len: pages * PAGE as u64 };
        let mut zero = ZeroPage { range, mode: 0, zeroed: 0 };
        let done = self.ioctl(UFFDIO_ZEROPAGE, &mut zero);
        put(done, zero.zeroed)
    }

    /// Wakes who waits for a page that is there.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn wake(&self, address: u64) -> io::Result<()> {
        self.ioctl(UFFDIO_WAKE, &mut Range { start: address, len: PAGE as u64 })
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        // SAFETY: every request above takes a pointer to the structure that is passed with it, which
        // lives for the call; the kernel reads and writes it and, for a copy, reads the pages, which
        // are borrowed for as long. What it writes elsewhere is memory that was registered for that.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, &raw mut *argument) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn put(done: io::Result<()>, bytes: i64) -> io::Result<Put> {
    let before = u64::try_from(bytes).unwrap_or(0);
    match done {
        Ok(()) => Ok(Put::Done),
        Err(error) => match error.raw_os_error() {
            Some(libc::EEXIST) => Ok(Put::Exists(before)),
            Some(libc::EAGAIN) => Ok(Put::Again(before)),
            Some(libc::ESRCH | libc::ENOENT) => Ok(Put::Gone),
            _ => Err(error),
        },
    }
}

fn parse(message: &[u8; MESSAGE]) -> Event {
    let word = |at: usize| {
        let bytes = message.get(at..at + 8).and_then(|bytes| bytes.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    match message.first() {
        Some(&EVENT_PAGEFAULT) => Event::Fault(word(16)),
        Some(&EVENT_REMOVE) => Event::Remove { start: word(8), end: word(16) },
        other => Event::Other(other.copied().unwrap_or(0)),
    }
}
