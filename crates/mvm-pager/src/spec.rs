//! What launcher and pager tell each other; the one place of these types.
//!
//! A pager is never root: it starts as the instance's user and opens nothing. Its standard input is a
//! connection to its launcher, over which one [`Spec`] as JSON comes with open files beside it, and one
//! [`Word`] goes back. The file's key is in the spec and nowhere else. Why a pager ended it says on
//! standard error, and its exit status tells whether the VMM was gone ([`EXIT_GONE`]) or the guest
//! cannot go on.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    base::DIGEST,
    seal::{Binding, Cipher, KEY, Refused},
    serve::Stats,
};

/// The longest spec, and the longest word back, in bytes.
const MESSAGE_MAX: usize = 4096;
/// The most files that come with a spec.
const FILES_MAX: usize = 5;

/// The files that come with a spec, in this order.
#[derive(Debug)]
pub struct Files<F> {
    /// The socket, listening, that Firecracker connects to.
    pub listener: F,
    /// The socket, listening, on which [`Ask`]s come in.
    pub control: F,
    /// The page file, if the guest has one.
    pub delta: Option<F>,
    /// The base, if there is one.
    pub base: Option<BaseFiles<F>>,
}

/// The two files of a base.
#[derive(Debug)]
pub struct BaseFiles<F> {
    /// The plain memory.
    pub mem: F,
    /// The digests of its pages.
    pub sums: F,
}

/// The exit status of a pager whose VMM is gone.
pub const EXIT_GONE: u8 = 0;
/// The exit status of a pager whose guest cannot go on.
pub const EXIT_FAILED: u8 = 1;

/// What a pager is started with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// How many pages the guest has.
    pub memory_pages: u64,
    /// Whether there is a page file.
    pub delta: bool,
    /// What opens it, if it is sealed.
    pub seal: Option<Seal>,
    /// Which base there is, if there is one: SHA-256 of its sums.
    pub base: Option<[u8; DIGEST]>,
    /// How many chunks at the front of the page file are put without being asked.
    pub ahead: usize,
}

/// What opens a page file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The file's key.
    pub key: Zeroizing<[u8; KEY]>,
    /// SHA-256 of the header.
    pub header: [u8; 32],
    /// The file's name, with zeros up to eight bytes.
    pub name: [u8; 8],
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(…)")
    }
}

impl Seal {
    /// The cipher of the file.
    ///
    /// # Errors
    /// As [`Cipher::new`].
    pub fn cipher(&self) -> Result<Cipher, Refused> {
        Cipher::new(&self.key, Binding { header: self.header, name: self.name })
    }
}

/// What a pager answers to its spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It waits for the VMM.
    Ready,
    /// What it was given is not what was written.
    Damaged(String),
    /// Anything else went wrong.
    Failed(String),
}

/// Hands a pager its spec and files, and hears what it says; `stream` has its timeouts.
///
/// # Errors
/// I/O errors; `UnexpectedEof` when it ended without a word.
pub fn hand_over(
    stream: &mut UnixStream,
    spec: &Spec,
    files: &Files<BorrowedFd<'_>>,
) -> io::Result<Word> {
    let text = Zeroizing::new(serde_json::to_vec(spec)?);
    let mut fds = vec![files.listener, files.control];
    fds.extend(files.delta);
    fds.extend(files.base.iter().flat_map(|base| [base.mem, base.sums]));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent =
        sendmsg(stream.as_fd(), &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(text.get(sent..).unwrap_or_default())?;
    stream.shutdown(Shutdown::Write)?;
    let mut word = Vec::new();
    stream.take(MESSAGE_MAX as u64).read_to_end(&mut word)?;
    if word.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&word)?)
}

/// Takes what a launcher hands over.
///
/// # Errors
/// I/O errors; `InvalidData` when it makes no sense.
pub fn take_over(stream: &UnixStream) -> io::Result<(Spec, Files<OwnedFd>)> {
    let mut text = Zeroizing::new(vec![0; MESSAGE_MAX]);
    let (mut length, mut fds) = (0, Vec::new());
    loop {
        let room = text.get_mut(length..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the spec is too long"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(stream, &mut [IoSliceMut::new(room)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            break;
        }
        length += got.bytes;
    }
    let spec: Spec = serde_json::from_slice(text.get(..length).unwrap_or_default())?;
    let mut fds = fds.into_iter();
    let mut next = || {
        fds.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a file is missing"))
    };
    let (listener, control) = (next()?, next()?);
    let delta = spec.delta.then(&mut next).transpose()?;
    let mut pair = || Ok::<_, io::Error>(BaseFiles { mem: next()?, sums: next()? });
    let base = spec.base.map(|_| pair()).transpose()?;
    Ok((spec, Files { listener, control, delta, base }))
}

/// A byte on a connection to the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Answer with [`Answer`] as JSON.
    Stats,
    /// Answer with the working set, a `u32` little-endian for each page.
    WorkingSet,
    /// Answer with where the guest's memory lies in the VMM, a list of [`Region`] as JSON. A pager of an
    /// older release answers nothing.
    ///
    /// [`Region`]: crate::handshake::Region
    Regions,
}

impl Ask {
    /// The byte that is sent.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Stats => b's',
            Self::WorkingSet => b'w',
            Self::Regions => b'r',
        }
    }

    /// What a byte asks.
    #[must_use]
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            b's' => Some(Self::Stats),
            b'w' => Some(Self::WorkingSet),
            b'r' => Some(Self::Regions),
            _ => None,
        }
    }
}

/// What is told of a pager's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it did so far.
    #[serde(flatten)]
    pub stats: Stats,
    /// Pages of the page file.
    pub delta: u64,
}
