//! Frames between `mvm-hostd` and its clients: four bytes of length, big-endian, then JSON. Open files
//! travel beside the length.
//!
//! A connection carries one request at a time. Unknown requests and fields are refused: both programs
//! come from one build, and a client of another one is told so.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use mvm_core::{
    Error,
    effect::{Effect, Firewall},
    id::{InstanceRef, OperationId, PoolRef, RequestKey, Subject, TenantId},
    instance::Instance,
    net::Network,
    operation::Rebuild,
    pool::{Role, Source},
    port::{BuildOrder, Builder, BuiltRoot, LogSource, PlacedRoot, Prepared, Progress},
    units::{Generation, Seconds},
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// The largest request, in bytes: a firewall of 65,000 guests has 10 MB.
pub const MAX_REQUEST: usize = 16 << 20;
/// The largest answer, in bytes: a node of 65,000 instances has about 20 MB.
pub const MAX_ANSWER: usize = 64 << 20;
/// How many open files one answer may bring.
pub const MAX_FILES: usize = 2;

/// What `mvm-hostd` is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Which version serves; answered with its text.
    Hello {},
    /// `Host::execute`.
    Execute {
        /// The act.
        effect: Box<Effect>,
        /// In whose name.
        operation: Option<OperationId>,
    },
    /// `Homes::ensure_home`.
    EnsureHome(Subject),
    /// `Host::observe_instance`.
    ObserveInstance(Box<Instance>),
    /// `Host::observe_tenant`.
    ObserveTenant(Network),
    /// `Host::observe_pool`.
    ObservePool(PoolRef),
    /// `Host::observe_stock`.
    ObserveStock {},
    /// `Host::observe_node`.
    ObserveNode {},
    /// `Host::weigh`.
    Weigh(Vec<Effect>),
    /// `Host::room`.
    Room {},
    /// `Host::disk_use`.
    DiskUse {},
    /// `Host::verify_network`.
    VerifyNetwork(Box<Firewall>),
    /// `Host::meter`.
    Meter(Box<Instance>),
    /// `Host::pressure`.
    Pressure {},
    /// `Host::wanted`.
    Wanted {},
    /// `Host::console`; answered with its socket.
    Console(InstanceRef),
    /// `Host::logs`.
    Logs {
        /// Whose.
        instance: InstanceRef,
        /// How many lines of each.
        lines: usize,
    },
    /// `Host::logs_after`; the place is file and offset.
    LogsAfter {
        /// Whose.
        instance: InstanceRef,
        /// Which.
        source: LogSource,
        /// From where.
        from: Option<(u64, u64)>,
    },
    /// A connection to an instance's agent; answered with the VMM's pidfd and the socket.
    Guest(InstanceRef),
    /// `Vault::keys`.
    SecretKeys {
        /// Whose.
        tenant: TenantId,
        /// At least of this epoch.
        epoch: Generation,
    },
    /// What a builder does; answered with an image, or none.
    Build(Box<Making>),
}

/// What a builder does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Making {
    /// `Builder::ensure_image`.
    Ensure(Build),
    /// `Builder::find_image`.
    Find(RequestKey),
    /// `Builder::place_root`.
    Place(PlacedRoot),
    /// `Builder::import_root`.
    Import(BuiltRoot),
}

impl Making {
    /// Does it.
    ///
    /// # Errors
    /// Those of the builder.
    pub fn by(
        self,
        builder: &dyn Builder,
        progress: &Arc<dyn Progress>,
    ) -> Result<Option<Prepared>, Error> {
        match self {
            Self::Ensure(Build { source, profile, role, rebuild, timeout }) => {
                let order = BuildOrder { source, profile, role, rebuild, timeout };
                builder.ensure_image(&order, progress).map(Some)
            }
            Self::Find(request) => Ok(builder.find_image(&request)?.map(Prepared::from)),
            Self::Place(root) => builder.place_root(&root).map(|()| None),
            Self::Import(root) => Ok(Some(builder.import_root(&root, progress)?.into())),
        }
    }
}

/// What a builder is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Where the image comes from.
    pub source: Source,
    /// The profile of the source.
    pub profile: String,
    /// What the instances are for.
    pub role: Role,
    /// Whether an image that is there is made again.
    pub rebuild: Rebuild,
    /// How long it may take.
    pub timeout: Seconds,
}

/// Sends a frame, with open files beside it.
///
/// # Errors
/// I/O errors.
pub fn send(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("more open files than an answer may bring"));
    }
    let mut sent = sendmsg(stream, &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    while sent < length.len() {
        sent += stream.write(length.get(sent..).unwrap_or_default())?;
    }
    stream.write_all(bytes)
}

/// Receives a frame of at most `max` bytes; none when the other side hung up between frames.
///
/// # Errors
/// `InvalidData` for a longer one, `UnexpectedEof` within one, other I/O errors.
pub fn receive(stream: &UnixStream, max: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut files = Vec::new();
    let mut length = [0u8; 4];
    let mut have = 0;
    while have < length.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let rest = length.get_mut(have..).unwrap_or_default();
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(stream, &mut [IoSliceMut::new(rest)], &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => continue,
            got => got?,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        match got.bytes {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut bytes = Vec::new();
    let got = Read::take(stream, length as u64).read_to_end(&mut bytes)?;
    if got < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((bytes, files)))
}
