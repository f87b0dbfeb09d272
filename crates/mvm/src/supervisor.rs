//! Telling who supervises this process as a service that it serves: sd_notify(3) of systemd.
//!
//! That is one datagram to the Unix socket that `NOTIFY_SOCKET` names. A process that nobody supervises says nothing.
//! This module refuses to know units, and what is served.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The variable that a supervisor sets.
const SOCKET: &str = "NOTIFY_SOCKET";
/// What it hears of a service that has started.
const READY: &[u8] = b"READY=1";

/// Who wants to know, if anybody does.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    /// A path, or behind `@` a name in the abstract namespace.
    socket: Option<OsString>,
}

impl Supervisor {
    /// The one of this process.
    pub(crate) fn of_this_process() -> Self {
        Self { socket: env::var_os(SOCKET).filter(|name| !name.is_empty()) }
    }

    /// Says that whoever asks from here on is answered. What does not arrive is logged: it is the supervisor that
    /// loses patience.
    pub(crate) fn tell_ready(&self) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, READY) {
            tracing::warn!(?socket, %error, "cannot tell the service manager that this serves");
        }
    }
}

fn send(socket: &OsString, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some(_) | None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// A supervisor, and what hears for it.
    pub(crate) fn listening_at(path: &Path) -> (Supervisor, UnixDatagram) {
        let heard = UnixDatagram::bind(path).unwrap();
        heard.set_nonblocking(true).unwrap();
        (Supervisor { socket: Some(path.into()) }, heard)
    }

    /// What was said; none for nothing.
    pub(crate) fn said(to: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 64];
        match to.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8(bytes.get(..length).unwrap().to_vec()).unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                None
            }
        }
    }

    #[test]
    fn a_supervisor_is_told_at_a_path_and_at_an_abstract_name() {
        let place = tempfile::tempdir().unwrap();
        let (supervisor, heard) = listening_at(&place.path().join("notify"));
        supervisor.tell_ready();
        assert_eq!((said(&heard).as_deref(), said(&heard)), (Some("READY=1"), None));

        // The kernel chooses a name that nobody has.
        let heard = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name("").unwrap()).unwrap();
        let bound = heard.local_addr().unwrap();
        let name = [b"@", bound.as_abstract_name().unwrap()].concat();
        heard.set_nonblocking(true).unwrap();
        let socket = Some(std::os::unix::ffi::OsStringExt::from_vec(name));
        Supervisor { socket }.tell_ready();
        assert_eq!(said(&heard).as_deref(), Some("READY=1"));
    }

    #[test]
    fn who_has_no_supervisor_or_one_that_is_gone_goes_on() {
        Supervisor::default().tell_ready();
        let place = tempfile::tempdir().unwrap();
        let socket = Some(place.path().join("none").into_os_string());
        Supervisor { socket }.tell_ready();
    }
}
