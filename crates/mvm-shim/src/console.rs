//! The console: a pseudo-terminal whose inner side is the VMM's standard input and output.
//!
//! It is nobody's controlling terminal, so when the shim dies and the terminal hangs up no signal
//! reaches the VMM; its console output is lost from then on, and nothing else.

use std::{io, os::fd::OwnedFd};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Console {
    /// The shim's end, non-blocking.
    pub outer: OwnedFd,
    /// The VMM's end.
    pub inner: OwnedFd,
}

/// Makes a raw terminal.
///
/// # Errors
/// When the host has no pseudo-terminals left.
pub fn open() -> io::Result<Console> {
    let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let inner =
        ioctl_tiocgptpeer(&outer, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut settings = tcgetattr(&inner)?;
    settings.make_raw();
    tcsetattr(&inner, OptionalActions::Now, &settings)?;
    rustix::io::ioctl_fionbio(&outer, true)?;
    Ok(Console { outer, inner })
}
