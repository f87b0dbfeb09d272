//! The page server of a woken VM: started when a launcher asks, and never outlived by its VM.
//!
//! ```text
//!  launcher ── connects to out/pager.sock ──► mvm-pager, with that connection as its standard input
//!  pager's end while the VMM lives ──► the VMM is killed, its exit record says why
//! ```
//! A VMM whose page server is gone waits for ever at its next page: it must not look alive. The shim has
//! given up its privileges by then, so a pager is the instance's user from its first moment. It refuses
//! to know what launcher and pager tell each other.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, openat};

use crate::{
    identity::{Process, ProcessId},
    record::{PAGER, PAGER_SOCKET, PAGER_WORDS},
    socket,
};

/// How long the VMM's end may be seen later than that of its pager, which sees it first at times.
const VMM_FIRST: Duration = Duration::from_millis(500);
/// How much is told of why a pager ended, in bytes.
const WORDS_MAX: u64 = 1024;

/// Where pagers are asked for, and the one that serves.
#[derive(Debug)]
pub struct Pager {
    program: PathBuf,
    listener: UnixListener,
    serving: Option<Serving>,
}

#[derive(Debug)]
struct Serving {
    process: Process,
    /// None for one that an earlier shim started.
    child: Option<Child>,
}

impl Pager {
    /// Listens in this directory for whoever wants a pager of this program.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(directory: &OwnedFd, program: PathBuf) -> io::Result<Self> {
        let listener = socket::listen(directory, PAGER_SOCKET)?;
        Ok(Self { program, listener, serving: None })
    }

    /// Takes over a pager of an earlier shim, and says whether it lives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(&mut self, id: ProcessId) -> io::Result<bool> {
        let process = id.open()?;
        self.serving = process.map(|process| Serving { process, child: None });
        Ok(self.serving.is_some())
    }

    /// What becomes readable when a pager is asked for.
    #[must_use]
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// What becomes readable when the pager ends.
    #[must_use]
    pub fn end(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        self.serving.as_ref().map(|serving| serving.process.fd().as_fd())
    }

    /// Starts a pager for whoever asks, unless one serves: its connection just ends then.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&mut self, out: &OwnedFd) -> io::Result<Option<ProcessId>> {
        let Ok((stream, _)) = self.listener.accept() else { return Ok(None) };
        if self.serving.is_some() {
            return Ok(None);
        }
        stream.set_nonblocking(false)?;
        let words = create(out, PAGER_WORDS)?;
        let child = self.spawn(stream, words)?;
        let id = ProcessId::of(child.id())?.ok_or(io::ErrorKind::NotFound)?;
        let process = id.open()?.ok_or(io::ErrorKind::NotFound)?;
        self.serving = Some(Serving { process, child: Some(child) });
        crate::watch::put(out, PAGER, &serde_json::to_vec(&id)?)?;
        Ok(Some(id))
    }

    #[expect(clippy::disallowed_methods, reason = "a pager lives as long as its VM: no deadline")]
    fn spawn(&self, stream: UnixStream, words: File) -> io::Result<Child> {
        Command::new(&self.program)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(stream))
            .stdout(Stdio::null())
            .stderr(Stdio::from(words))
            .spawn()
    }

    /// Takes note of the pager's end: why, unless it ended because `vmm` did.
    pub fn bury(&mut self, vmm: &Process, out: &OwnedFd) -> Option<String> {
        let mut serving = self.serving.take()?;
        let status = serving.child.as_mut().and_then(|child| child.wait().ok());
        let wait =
            if status.is_some_and(|status| status.success()) { VMM_FIRST } else { Duration::ZERO };
        if vmm.wait(wait).unwrap_or(false) {
            return None;
        }
        let words = words(out);
        Some(match (words.trim(), status) {
            ("", Some(status)) => format!("its page server ended ({status})"),
            ("", None) => "its page server ended".to_owned(),
            (words, _) => format!("its page server gave up: {words}"),
        })
    }
}

fn create(out: &OwnedFd, name: &str) -> io::Result<File> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(out, name, flags, Mode::from_raw_mode(0o640))?))
}

fn words(out: &OwnedFd) -> String {
    let path = format!("/proc/self/fd/{}/{PAGER_WORDS}", out.as_raw_fd());
    let mut text = Vec::new();
    // Without words the end alone is told.
    let _ = File::open(path).and_then(|file| file.take(WORDS_MAX).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    #![expect(clippy::disallowed_methods, reason = "R4: a process of the test's own")]
    use std::{io::Write, path::Path, thread};

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("pager");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// A pager that runs this script, to its end; and what is told of that while this process lives.
    fn told(text: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let out = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut pager = Pager::listen(&out, script(dir.path(), text)).unwrap();
        let mut stream = UnixStream::connect(dir.path().join(PAGER_SOCKET)).unwrap();
        let id = pager.start(&out).unwrap().unwrap();
        let recorded: ProcessId =
            serde_json::from_slice(&std::fs::read(dir.path().join(PAGER)).unwrap()).unwrap();
        assert_eq!(recorded, id);
        stream.write_all(b"go\n").unwrap();
        assert!(pager.serving.as_ref().unwrap().process.wait(Duration::from_secs(10)).unwrap());
        let vmm = ProcessId::own().unwrap().open().unwrap().unwrap();
        pager.bury(&vmm, &out)
    }

    #[test]
    fn a_pager_has_its_launchers_connection_and_its_end_is_told_with_its_own_words() {
        let why = told("read word; echo \"got $word\" >&2; exit 1").unwrap();
        assert_eq!(why, "its page server gave up: got go");
        assert!(told("read word; kill -9 $$").unwrap().contains("signal: 9"));
    }

    #[test]
    fn a_pager_that_ends_after_its_vmm_is_no_news() {
        let dir = tempfile::tempdir().unwrap();
        let out = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut pager = Pager::listen(&out, script(dir.path(), "read word")).unwrap();
        let stream = UnixStream::connect(dir.path().join(PAGER_SOCKET)).unwrap();
        pager.start(&out).unwrap().unwrap();
        let mut gone = Command::new("true").spawn().unwrap();
        let vmm = ProcessId::of(gone.id()).unwrap().unwrap();
        let handle = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&gone),
            rustix::process::PidfdFlags::empty(),
        );
        gone.wait().unwrap();
        assert!(!vmm.is_alive().unwrap());
        drop(stream);
        assert!(pager.bury(&Process::from_pidfd(handle.unwrap()), &out).is_none());
    }

    #[test]
    fn who_asks_while_one_serves_is_turned_away() {
        let dir = tempfile::tempdir().unwrap();
        let out = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut pager = Pager::listen(&out, script(dir.path(), "read word")).unwrap();
        let ask = || UnixStream::connect(dir.path().join(PAGER_SOCKET)).unwrap();
        let first = ask();
        assert!(pager.start(&out).unwrap().is_some());
        let mut second = ask();
        assert!(pager.start(&out).unwrap().is_none());
        let mut byte = [0];
        assert_eq!(second.read(&mut byte).unwrap(), 0);
        let held = thread::spawn(move || drop(first));
        held.join().unwrap();
    }
}
