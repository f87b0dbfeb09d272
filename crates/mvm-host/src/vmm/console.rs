//! Attaching to a guest's serial console, which its shim relays to one client at a time.

use std::{
    io::{self, Read},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

use mvm_core::{Error, ErrorKind, id::InstanceRef, port::Console};
use mvm_shim::record::{CONSOLE_ATTACHED, CONSOLE_BUSY, CONSOLE_SOCKET, OUT};
use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags, open},
};

use super::{
    fault::Act,
    place::Place,
    socket::{self, Deadline},
};
use crate::roots::Roots;

/// How long a shim may take to let somebody in.
const PATIENCE: Duration = Duration::from_secs(5);

/// Attaches to the console.
///
/// # Errors
/// `Conflict` while somebody else is attached, `Unavailable` when no shim holds a console.
pub fn attach(roots: &Roots, instance: &InstanceRef) -> Result<Console, Error> {
    let stream = connect(roots, instance)?;
    let input = Box::new(stream.try_clone().act(format_args!("attach to {instance}"))?);
    Ok(Console { input, output: Box::new(stream) })
}

/// The socket of the console, let in.
///
/// # Errors
/// As [`attach`].
pub fn connect(roots: &Roots, instance: &InstanceRef) -> Result<UnixStream, Error> {
    let absent = || {
        let message = format!("nobody holds the console of {instance}");
        Error::new(ErrorKind::Unavailable, message).hint(format!(
            "its shim died or it has no process; the console is back after: mvm instance stop {instance} && mvm instance start {instance}"
        ))
    };
    let place = Place::of(roots, &instance.instance);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(out) = open(place.records.join(OUT), flags, Mode::empty()) else {
        return Err(absent());
    };
    let deadline = Deadline::after(PATIENCE);
    let mut stream = match socket::connect(&out, CONSOLE_SOCKET, deadline) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(absent());
        }
        Err(error) => return Err(error).act(format_args!("attach to {instance}")),
    };
    let what = format_args!("attach to {instance}");
    deadline.poll([(stream.as_fd(), PollFlags::IN)]).act(what)?;
    let mut word = [0u8];
    let count = stream.read(&mut word).act(what)?;
    match word {
        [CONSOLE_ATTACHED] if count == 1 => {}
        [CONSOLE_BUSY] if count == 1 => {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("somebody is attached to the console of {instance} already"),
            )
            .hint(format!("read along: mvm instance logs {instance}")));
        }
        _ => return Err(absent()),
    }
    stream.set_nonblocking(false).act(what)?;
    Ok(stream)
}
