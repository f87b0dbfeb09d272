//! A guest's tap: made so that one user, and nobody else, may open it.
//!
//! ```text
//! open /dev/net/tun → TUNSETIFF, OWNER, GROUP → IPv6 off → on the bridge, up → PERSIST → close
//! ```
//!
//! Persistence comes last: a tap whose making is cut short disappears with the file descriptor, so
//! that a tap that can be seen is always complete. This is on the wake path: no helper process.

#![expect(unsafe_code, reason = "the tun device is configured by ioctls that have no safe binding")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use mvm_core::units::Uid;

/// Flags of the tap: Ethernet frames without packet information, with the virtio-net header that
/// Firecracker asks for when it opens the device.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
const TUN: &str = "/dev/net/tun";

/// A tap that vanishes when this is dropped, until it is made persistent.
#[derive(Debug)]
pub(super) struct NewTap(File);

impl NewTap {
    /// Makes the tap, down and on no bridge.
    pub(super) fn create(name: &str, owner: Uid) -> io::Result<Self> {
        let tun = OpenOptions::new().read(true).write(true).open(TUN)?;
        set_interface(&tun, name)?;
        set_number(&tun, libc::TUNSETOWNER, owner.0)?;
        set_number(&tun, libc::TUNSETGROUP, owner.0)?;
        Ok(Self(tun))
    }

    /// Lets the tap outlive this process.
    pub(super) fn persist(self) -> io::Result<()> {
        set_number(&self.0, libc::TUNSETPERSIST, 1)
    }
}

fn set_interface(tun: &File, name: &str) -> io::Result<()> {
    let flags = libc::c_short::try_from(FLAGS).map_err(io::Error::other)?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let mut request =
        libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is and which outlives
    // the call; the descriptor is open because `tun` is borrowed.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

fn set_number(tun: &File, request: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER, TUNSETGROUP and TUNSETPERSIST take their argument by value and touch no
    // memory of this process; the descriptor is open because `tun` is borrowed.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), request, libc::c_ulong::from(value)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
