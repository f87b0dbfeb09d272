//! What Firecracker sends to its page server: the userfaultfd and where which part of the memory lies.
//!
//! One message on a Unix socket: a JSON list of regions with the descriptor beside it (Firecracker
//! 1.12, `src/vmm/src/persist.rs`; later versions only add fields). The sender may be hostile: sizes are
//! bounded and regions must tile the memory that is expected.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{index::PAGE, uffd::Uffd};

/// The longest list of regions in bytes; real ones have two regions at most.
const MESSAGE_MAX: usize = 4096;

/// A part of the guest's memory in the VMM's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its first address there.
    #[serde(rename = "base_host_virt_addr")]
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where it lies in the memory file.
    pub offset: u64,
}

/// Why a message is refused.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The socket.
    #[error("cannot receive the memory's description")]
    Io(#[from] io::Error),
    /// It is no list of regions.
    #[error("the memory's description makes no sense")]
    Text(#[from] serde_json::Error),
    /// There is not one descriptor with it.
    #[error("the memory's description came without its userfaultfd")]
    Descriptor,
    /// The regions do not tile the memory.
    #[error("the regions do not make up a memory of {0} pages")]
    Regions(u64),
}

/// Receives the message of a VMM whose guest has `memory_pages`.
///
/// # Errors
/// [`HandshakeError`].
pub fn receive(
    stream: &UnixStream,
    memory_pages: u64,
) -> Result<(Uffd, Vec<Region>), HandshakeError> {
    let mut text = vec![0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(io::Error::from)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let fd = match (descriptors.pop(), descriptors.is_empty()) {
        (Some(fd), true) => fd,
        (_, _) => return Err(HandshakeError::Descriptor),
    };
    let regions: Vec<Region> = serde_json::from_slice(text.get(..got.bytes).unwrap_or_default())?;
    check(&regions, memory_pages)?;
    rustix::io::ioctl_fionbio(&fd, true).map_err(io::Error::from)?;
    Ok((Uffd::from(fd), regions))
}

fn check(regions: &[Region], memory_pages: u64) -> Result<(), HandshakeError> {
    let wrong = || HandshakeError::Regions(memory_pages);
    let mut order: Vec<&Region> = regions.iter().collect();
    order.sort_by_key(|region| region.offset);
    let mut next = 0u64;
    for region in order {
        let aligned = [region.start, region.size, region.offset];
        let is_whole = aligned.iter().all(|number| number % PAGE as u64 == 0);
        if !is_whole || region.offset != next || region.start.checked_add(region.size).is_none() {
            return Err(wrong());
        }
        next = next.checked_add(region.size).ok_or_else(wrong)?;
    }
    if next == memory_pages.saturating_mul(PAGE as u64) && next > 0 { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regions_that_tile_the_memory_are_taken() {
        let region = |start, size, offset| Region { start, size, offset };
        assert!(check(&[region(1 << 30, 8192, 0), region(1 << 40, 4096, 8192)], 3).is_ok());
        for wrong in [
            vec![],
            vec![region(1 << 30, 8192, 4096)],
            vec![region(1 << 30, 8192, 0), region(1 << 40, 8192, 4096)],
            vec![region(1, 12288, 0)],
            vec![region(u64::MAX - 4095, 12288, 0)],
            vec![region(0, 12288, 0), region(0, 4096, 12288)],
        ] {
            assert!(check(&wrong, 3).is_err(), "{wrong:?}");
        }
    }
}
