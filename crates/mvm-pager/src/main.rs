//! `mvm-pager`: answers the page faults of one woken VM. See the library, [`mvm_pager::spec`].

use std::{
    error::Error,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::ExitCode,
    time::Duration,
};

use mvm_pager::{
    Base, End, PageFile, Server, handshake, sandbox,
    serve::Sources,
    spec::{Answer, Ask, BASE, CONTROL, DELTA, EXIT_FAILED, EXIT_GONE, LISTENER, Spec},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::socket_peercred,
    process::{PidfdFlags, pidfd_open},
};
use zeroize::Zeroizing;

/// How long a VMM may take to connect: it loads the device state first.
const CONNECT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// How long somebody who asked may take to read the answer; the guest waits meanwhile.
const ANSWER: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::from(EXIT_GONE),
        Err(error) => {
            let mut text = format!("mvm-pager: {error}");
            let mut next = error.source();
            while let Some(source) = next {
                text = format!("{text}: {source}");
                next = source.source();
            }
            // Where nobody listens the exit status still speaks.
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut text = Zeroizing::new(Vec::new());
    io::stdin().lock().read_to_end(&mut text)?;
    let spec: Spec = serde_json::from_slice(&text)?;
    drop(text);
    let listener = UnixListener::from(inherited(LISTENER)?);
    let control = UnixListener::from(inherited(CONTROL)?);
    control.set_nonblocking(true)?;
    let sources = sources(&spec)?;
    drop(spec);
    let stream = accept(&listener)?;
    drop(listener);
    let vmm = pidfd_open(socket_peercred(&stream)?.pid, PidfdFlags::empty())?;
    sandbox::enter()?;
    let pages = sources.memory_pages;
    let (uffd, regions) = handshake::receive(&stream, pages)?;
    let mut server = Server::new(uffd, regions, sources)?;
    while server.run(&control, &vmm)? == End::Told {
        answer(&control, &server);
    }
    Ok(())
}

/// A descriptor that the launcher left open for us.
#[expect(unsafe_code, reason = "R12: an inherited descriptor has no other form than its number")]
fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: only asks whether the number is open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, the launcher gave it for this purpose, and each number is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn sources(spec: &Spec) -> Result<Sources, Box<dyn Error>> {
    let pages = spec.memory_pages;
    let delta = if spec.delta {
        let cipher = spec.seal.as_ref().map(mvm_pager::spec::Seal::cipher).transpose()?;
        Some(PageFile::open(File::from(inherited(DELTA)?), pages, cipher)?)
    } else {
        None
    };
    let base = match spec.base {
        true => Some(Base::open(File::from(inherited(BASE)?), pages)?),
        false => None,
    };
    Ok(Sources { memory_pages: pages, delta, base, ahead: spec.ahead })
}

fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut fds, Some(&CONNECT))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no VMM connected"));
    }
    Ok(listener.accept()?.0)
}

/// Answers one question; who asks and does not listen is left.
fn answer(control: &UnixListener, server: &Server) {
    let Ok((mut stream, _)) = control.accept() else { return };
    let mut tell = || -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        match byte.first().copied().and_then(Ask::of) {
            Some(Ask::Stats) => {
                let answer = Answer { stats: server.stats(), delta: server.delta_pages() };
                stream.write_all(&serde_json::to_vec(&answer)?)
            }
            Some(Ask::WorkingSet) => {
                let pages = server.working_set().iter().flat_map(|page| page.to_le_bytes());
                stream.write_all(&pages.collect::<Vec<u8>>())
            }
            None => Ok(()),
        }
    };
    // Nothing of the guest depends on it.
    let _ = tell();
}
