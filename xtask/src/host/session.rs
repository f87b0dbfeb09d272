//! Secure shell into a host: one connection, kept open, shared by every later call.
//!
//! Knows nothing about emulators; needs a port, a key and a directory for the socket.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Act, Error, Result};
use crate::tool;

/// Where a host's secure shell answers.
pub(crate) struct Session {
    dir: PathBuf,
    key: PathBuf,
    port: u16,
    /// Words before `ssh`, to enter a network namespace.
    prefix: Vec<String>,
}

impl Session {
    /// A session that is not connected yet.
    pub(crate) fn new(dir: &Path, key: &Path, port: u16, prefix: Vec<String>) -> Self {
        Self { dir: dir.to_path_buf(), key: key.to_path_buf(), port, prefix }
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Opens the shared connection, within `limit`; `check` ends the wait when the host died.
    pub(crate) fn connect(
        &self,
        limit: Duration,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<Child> {
        let deadline = Instant::now() + limit;
        loop {
            let mut master = self.spawn_master()?;
            while master.try_wait().act(|| "look after ssh".into())?.is_none() {
                if self.socket().exists() {
                    return Ok(master);
                }
                let is_late = Instant::now() > deadline;
                if let Err(error) = if is_late { Err(self.late()) } else { check() } {
                    let _gone_already = master.kill();
                    let _status = master.wait();
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            if Instant::now() > deadline {
                return Err(self.late());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A call into the host over the shared connection; the words arrive there unchanged.
    pub(crate) fn command(&self, argv: &[String], terminal: Terminal) -> Command {
        let mut command = self.ssh();
        if terminal == Terminal::Yes {
            command.arg("-t");
        }
        command.arg("root@127.0.0.1").arg("--");
        command.args(argv.iter().map(|word| quote(word)));
        command
    }

    /// Forgets a shared connection that was ended, so that a new one can be opened.
    pub(crate) fn forget(&self) {
        let _gone_already = fs::remove_file(self.socket());
    }

    fn spawn_master(&self) -> Result<Child> {
        let log = File::create(self.dir.join("ssh.log")).act(|| "create ssh.log".into())?;
        let mut command = self.ssh();
        command.args(["-M", "-N", "root@127.0.0.1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().act(|| "start ssh".into())
    }

    fn ssh(&self) -> Command {
        let mut words: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        words.push("ssh");
        let mut command = tool::command(&words);
        command.args(["-F", "none", "-i"]).arg(&self.key).arg("-S").arg(self.socket());
        command.args(["-p", &self.port.to_string(), "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        command.args(["-o", "ConnectTimeout=20", "-o", "IdentitiesOnly=yes"]);
        command.args(["-o", "BatchMode=yes"]);
        // A host whose kernel hung is noticed after 90 s of silence.
        command.args(["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=9"]);
        command
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("ssh.sock")
    }

    fn late(&self) -> Error {
        let words = fs::read_to_string(self.dir.join("ssh.log")).unwrap_or_default();
        Error::refused(format!("the test host does not answer to ssh: {}", words.trim_end()))
    }
}

/// Whether the far side gets a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// For a person.
    Yes,
    /// For a program.
    No,
}

/// One word as the far shell's grammar wants it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_inside_a_word_survives_the_far_shell() {
        assert_eq!(quote("it's; $(x)"), r"'it'\''s; $(x)'");
        assert_eq!(quote(""), "''");
    }
}
