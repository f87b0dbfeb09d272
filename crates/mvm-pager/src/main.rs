//! `mvm-pager`: answers the page faults of one woken VM. See the library, [`mvm_pager::spec`].

use std::{
    error::Error,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::ExitCode,
    time::Duration,
};

use mvm_pager::{
    Base, End, PageFile, Server,
    base::BaseError,
    handshake,
    read::ReadError,
    sandbox,
    serve::Sources,
    spec::{self, Answer, Ask, BaseFiles, EXIT_FAILED, EXIT_GONE, Files, Spec, Word},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::socket_peercred,
    process::{PidfdFlags, pidfd_open},
};

/// How long a VMM may take to connect: it loads the device state first.
const CONNECT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// How long somebody who asked may take to read the answer; the guest waits meanwhile.
const ANSWER: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::from(EXIT_GONE),
        Err(error) => {
            // Where nobody listens the exit status still speaks.
            let _ = writeln!(io::stderr(), "{}", chain(&*error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut launcher = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let prepared = prepare(&launcher);
    let word = match &prepared {
        Ok(_) => Word::Ready,
        Err(error) if is_damage(&**error) => Word::Damaged(chain(&**error)),
        Err(error) => Word::Failed(chain(&**error)),
    };
    launcher.write_all(&serde_json::to_vec(&word)?)?;
    // Whoever waits for the word waits for its end.
    launcher.shutdown(std::net::Shutdown::Both)?;
    drop(launcher);
    let (sources, listener, control) = prepared?;
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

/// Whether it is the files' fault, and not the machine's.
fn is_damage(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<ReadError>().is_some_and(ReadError::is_damage)
        || error.downcast_ref::<BaseError>().is_some_and(BaseError::is_damage)
}

type Prepared = (Sources, UnixListener, UnixListener);

fn prepare(launcher: &UnixStream) -> Result<Prepared, Box<dyn Error>> {
    let (spec, files) = spec::take_over(launcher)?;
    let Files { listener, control, delta, base } = files;
    let (listener, control) = (UnixListener::from(listener), UnixListener::from(control));
    control.set_nonblocking(true)?;
    Ok((sources(&spec, delta.map(File::from), base)?, listener, control))
}

fn sources(
    spec: &Spec,
    delta: Option<File>,
    base: Option<BaseFiles<OwnedFd>>,
) -> Result<Sources, Box<dyn Error>> {
    let pages = spec.memory_pages;
    let cipher = spec.seal.as_ref().map(spec::Seal::cipher).transpose()?;
    let delta = delta.map(|file| PageFile::open(file, pages, cipher)).transpose()?;
    let base = spec.base.as_ref().zip(base).map(|(digest, BaseFiles { mem, sums })| {
        Base::open_files(mem.into(), &sums.into(), digest, pages)
    });
    let base = base.transpose()?;
    if base.is_none() && delta.as_ref().is_some_and(|delta| delta.index().needs_base()) {
        return Err(ReadError::NoBase.into());
    }
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
            Some(Ask::Regions) => stream.write_all(&serde_json::to_vec(server.regions())?),
            None => Ok(()),
        }
    };
    // Nothing of the guest depends on it.
    let _ = tell();
}
