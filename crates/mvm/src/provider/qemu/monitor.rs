//! The emulator's control socket (QMP: one JSON object a line).

use std::{
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use mvm_core::error::{Error, ErrorKind};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

/// How long the emulator may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The socket's name in the directory of the running machine.
pub(super) const SOCKET: &str = "qmp.sock";

/// A connection in command mode.
pub(super) struct Monitor {
    reader: BufReader<UnixStream>,
}

fn fault(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(ErrorKind::Unavailable, "cannot talk to the emulator").because(error)
}

impl Monitor {
    /// Connects to the emulator whose files are in `directory`.
    pub(super) fn connect(directory: &Path) -> Result<Self, Error> {
        // Through the directory's descriptor no path is too long for a socket.
        let opened = rustix::fs::open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let directory = opened.map_err(|error| fault(&error))?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        let stream = UnixStream::connect(path).map_err(|error| fault(&error))?;
        stream.set_read_timeout(Some(ANSWER)).map_err(|error| fault(&error))?;
        let mut monitor = Self { reader: BufReader::new(stream) };
        monitor.read()?;
        monitor.ask("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs one command and returns its answer.
    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes()).map_err(|error| fault(&error))?;
        loop {
            let mut answer = self.read()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                let message = format!("the emulator refused {command}: {error}");
                return Err(Error::new(ErrorKind::Failed, message));
            }
        }
    }

    /// Runs a command of the emulator's command line; what it answers is a complaint.
    pub(super) fn order(&mut self, line: &str) -> Result<(), Error> {
        let answer = self.ask("human-monitor-command", &json!({ "command-line": line }))?;
        match answer.as_str().map(str::trim) {
            None | Some("") => Ok(()),
            Some(complaint) => {
                Err(Error::new(ErrorKind::Failed, format!("the emulator refused {line}"))
                    .because(&std::io::Error::other(complaint.to_owned())))
            }
        }
    }

    fn read(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).map_err(|error| fault(&error))?;
        if length == 0 {
            return Err(Error::new(ErrorKind::Unavailable, "the emulator closed its socket"));
        }
        serde_json::from_str(&line).map_err(|error| fault(&error))
    }
}
