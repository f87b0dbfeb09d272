//! What every provider promises, as one test over any of them. The real machine passes through the
//! same moves in `tests/provider/`; here it is a provider whose machine is a directory.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{fs, io, path::PathBuf, sync::mpsc};

use mvm_core::port::{ExecStreams, ProgressStep};

use super::*;
use crate::forward::{self, Act, Request};

struct Silent;

impl Progress for Silent {
    fn report(&self, _step: &ProgressStep) {}
}

/// Makes, starts, uses, stops, starts again and removes a machine, each twice.
pub(super) fn keeps_its_promises(provider: &dyn Provider) {
    let is_kept = provider.kind() != HostKind::Native;
    if is_kept {
        assert_eq!(provider.look().unwrap(), MachineState::Absent);
        let refused = provider.ensure_started(&Silent).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotFound);
        assert!(refused.hints.concat().contains("mvm bootstrap"));
        provider.ensure_stopped(&Silent).unwrap();
        provider.ensure_removed(&Silent).unwrap();
        provider.ensure_made(Packages::Expect, &Silent).unwrap();
        provider.ensure_made(Packages::Expect, &Silent).unwrap();
        assert_eq!(provider.look().unwrap(), MachineState::Stopped);
        assert_eq!(provider.connect().err().unwrap().kind, ErrorKind::Unavailable);
    }
    for _ in 0..2 {
        provider.ensure_started(&Silent).unwrap();
        provider.ensure_started(&Silent).unwrap();
        assert_eq!(provider.look().unwrap(), MachineState::Running);
        if is_kept {
            assert_eq!(code(provider, &["true"]), 0);
            assert_eq!(code(provider, &["false"]), 1);
        }
        let port = [Published { port: 1, protocol: mvm_core::publish::Protocol::Tcp }];
        provider.ensure_published(&port).unwrap();
        provider.ensure_published(&port).unwrap();
        provider.ensure_published(&[]).unwrap();
        provider.ensure_stopped(&Silent).unwrap();
        provider.ensure_stopped(&Silent).unwrap();
        let rested = if is_kept { MachineState::Stopped } else { MachineState::Running };
        assert_eq!(provider.look().unwrap(), rested);
    }
    provider.ensure_removed(&Silent).unwrap();
    provider.ensure_removed(&Silent).unwrap();
    let gone = if is_kept { MachineState::Absent } else { MachineState::Running };
    assert_eq!(provider.look().unwrap(), gone);
}

fn code(provider: &dyn Provider, words: &[&str]) -> u8 {
    let link = provider.connect().unwrap();
    let act = Act::Run(words.iter().map(|word| (*word).to_owned()).collect());
    let (_sender, control) = mpsc::channel();
    let streams = ExecStreams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(io::sink()),
        stderr: Box::new(io::sink()),
        control,
    };
    forward::run(link, &Request { act, ..Request::plain() }, streams).unwrap().code
}

/// A machine that is two files: it was made; it runs.
struct Directory(PathBuf);

impl Provider for Directory {
    fn kind(&self) -> HostKind {
        HostKind::Qemu
    }

    fn look(&self) -> Result<MachineState, Error> {
        Ok(match (self.0.join("made").exists(), self.0.join("running").exists()) {
            (false, _) => MachineState::Absent,
            (true, false) => MachineState::Stopped,
            (true, true) => MachineState::Running,
        })
    }

    fn ensure_made(&self, _packages: Packages, _progress: &dyn Progress) -> Result<(), Error> {
        fs::write(self.0.join("made"), "").unwrap();
        Ok(())
    }

    fn ensure_started(&self, _progress: &dyn Progress) -> Result<(), Error> {
        if self.look()? == MachineState::Absent {
            let error = Error::new(ErrorKind::NotFound, "the machine was not made yet");
            return Err(error.hint("run `mvm bootstrap`"));
        }
        fs::write(self.0.join("running"), "").unwrap();
        Ok(())
    }

    fn ensure_stopped(&self, _progress: &dyn Progress) -> Result<(), Error> {
        let _ = fs::remove_file(self.0.join("running"));
        Ok(())
    }

    fn ensure_removed(&self, _progress: &dyn Progress) -> Result<(), Error> {
        for name in ["made", "running"] {
            let _ = fs::remove_file(self.0.join(name));
        }
        Ok(())
    }

    fn connect(&self) -> Result<Link, Error> {
        if self.look()? != MachineState::Running {
            return Err(Error::new(ErrorKind::Unavailable, "the machine does not run"));
        }
        let mut link = forward::tests::link(&self.0);
        forward::hello(&mut link)?;
        Ok(link)
    }

    fn ensure_published(&self, _ports: &[Published]) -> Result<(), Error> {
        Ok(())
    }
}

pub(super) fn config(base: &std::path::Path, host: HostChoice) -> Config {
    let overrides =
        crate::config::Overrides { data_dir: Some(base.join("data")), ..Default::default() };
    let config = Config::read(&overrides).unwrap();
    Config { run_dir: base.join("run"), host, ..config }
}

#[test]
fn a_kept_machine_keeps_its_promises() {
    let base = tempfile::tempdir().unwrap();
    keeps_its_promises(&Directory(base.path().to_owned()));
}

#[test]
fn this_machine_keeps_its_promises() {
    let base = tempfile::tempdir().unwrap();
    keeps_its_promises(&Native::new(config(base.path(), HostChoice::Native)));
}

#[test]
fn a_qemu_machine_that_was_never_made_is_absent_stopped_and_removed() {
    let base = tempfile::tempdir().unwrap();
    let qemu = Qemu::new(config(base.path(), HostChoice::Qemu));
    assert_eq!(qemu.look().unwrap(), MachineState::Absent);
    assert_eq!(qemu.ensure_started(&Silent).unwrap_err().kind, ErrorKind::NotFound);
    qemu.ensure_stopped(&Silent).unwrap();
    qemu.ensure_removed(&Silent).unwrap();
    assert_eq!(qemu.connect().err().unwrap().kind, ErrorKind::Unavailable);
}

#[test]
fn a_place_that_is_not_there_is_refused_with_what_to_do() {
    let base = tempfile::tempdir().unwrap();
    let refused = place(&config(base.path(), HostChoice::Qemu)).err().unwrap();
    assert!(refused.hints.concat().contains("mvm bootstrap"));
    assert!(matches!(place(&config(base.path(), HostChoice::Native)), Ok(Place::Here)));
}
