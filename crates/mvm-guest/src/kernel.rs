//! The few system calls that have no safe form. All `unsafe` of the agent is in this file.
//!
//! This module refuses to know why they are made.
#![expect(unsafe_code, reason = "ioctls, raw packets and code between fork and exec")]

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::ioctl;

/// `FIFREEZE` and `FITHAW` of linux/fs.h: `_IOWR('X', 119 | 120, int)`.
const FIFREEZE: ioctl::Opcode = ioctl::opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: ioctl::Opcode = ioctl::opcode::read_write::<libc::c_int>(b'X', 120);
/// `BLKFLSBUF` of linux/fs.h: `_IO(0x12, 97)`.
const BLKFLSBUF: ioctl::Opcode = ioctl::opcode::none(0x12, 97);
/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of linux/random.h: `_IOW('R', 3, int[2])`, `_IO('R', 7)`.
const RNDADDENTROPY: ioctl::Opcode = ioctl::opcode::write::<[libc::c_int; 2]>(b'R', 3);
const RNDRESEEDCRNG: ioctl::Opcode = ioctl::opcode::none(b'R', 7);

/// `struct rand_pool_info` of linux/random.h with its buffer.
#[repr(C)]
struct RandPoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; 64],
}

/// Freezes the file system that `file` is on.
pub(crate) fn freeze_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: FIFREEZE reads nothing from its argument; a pointer to a live int is passed.
    unsafe { ioctl::ioctl(file, ioctl::Setter::<FIFREEZE, libc::c_int>::new(0))? };
    Ok(())
}

/// Thaws the file system that `file` is on.
pub(crate) fn thaw_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: FITHAW reads nothing from its argument; a pointer to a live int is passed.
    unsafe { ioctl::ioctl(file, ioctl::Setter::<FITHAW, libc::c_int>::new(0))? };
    Ok(())
}

/// Drops what the kernel cached of a block device, so that a swapped drive is read afresh.
pub(crate) fn flush_block_device(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    unsafe { ioctl::ioctl(device, ioctl::NoArg::<BLKFLSBUF>::new())? };
    Ok(())
}

/// Credits 64 bytes to the kernel's random pool and makes it reseed at once.
pub(crate) fn add_entropy(random: &File, bytes: [u8; 64]) -> io::Result<()> {
    let pool = RandPoolInfo { entropy_count: 512, buf_size: 64, buf: bytes };
    // SAFETY: RNDADDENTROPY reads a rand_pool_info whose buffer has buf_size bytes; it has.
    unsafe { ioctl::ioctl(random, ioctl::Setter::<RNDADDENTROPY, RandPoolInfo>::new(pool))? };
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { ioctl::ioctl(random, ioctl::NoArg::<RNDRESEEDCRNG>::new())? };
    Ok(())
}

/// What a child does between fork and exec.
pub(crate) struct Launch {
    /// The open `cgroup.procs` to enter.
    pub(crate) cgroup: Option<OwnedFd>,
    /// Make stdin the controlling terminal.
    pub(crate) takes_terminal: bool,
    /// The user, group and further groups to become; `None` stays root.
    pub(crate) user: Option<(u32, u32, Vec<u32>)>,
}

/// Prepares a command to start in a session of its own, as `launch` says.
pub(crate) fn set_launch(command: &mut Command, launch: Launch) {
    use rustix::process::{Gid, Uid, ioctl_tiocsctty, setsid};
    let Launch { cgroup, takes_terminal, user } = launch;
    let user = user.map(|(uid, gid, groups)| {
        let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
        (Uid::from_raw(uid), Gid::from_raw(gid), groups)
    });
    let between = move || -> io::Result<()> {
        if let Some(procs) = &cgroup {
            rustix::io::write(procs, b"0")?;
        }
        setsid()?;
        if takes_terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some((uid, gid, groups)) = &user {
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_gid(*gid)?;
            rustix::thread::set_thread_uid(*uid)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; all it needs was allocated before the fork.
    unsafe { command.pre_exec(between) };
}

/// Tells the neighbours of a network device which MAC address has `address` (RFC 5227 §3).
pub(crate) fn announce(index: u32, mac: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let ip = address.octets();
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend_from_slice(&mac);
    packet.extend_from_slice(&ip);
    packet.extend_from_slice(&[0; 6]);
    packet.extend_from_slice(&ip);
    let arp = u16::try_from(libc::ETH_P_ARP).unwrap_or(0x0806).to_be();
    let family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
    let target = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: arp,
        sll_ifindex: i32::try_from(index).unwrap_or(0),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let size = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the packet and the address outlive the call, with their true lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            std::ptr::from_ref(&target).cast(),
            size,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the wall clock, in nanoseconds since 1970-01-01 UTC.
pub(crate) fn set_wall_clock(nanoseconds: u64) -> io::Result<()> {
    use rustix::time::{ClockId, Timespec, clock_settime};
    let second = 1_000_000_000;
    let time = Timespec {
        tv_sec: i64::try_from(nanoseconds / second).map_err(io::Error::other)?,
        tv_nsec: i64::try_from(nanoseconds % second).map_err(io::Error::other)?,
    };
    clock_settime(ClockId::Realtime, time)?;
    Ok(())
}
