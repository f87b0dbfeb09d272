//! The emulator's control socket (QMP: one JSON object per line).
//!
//! Waits with a deadline; polls every 20 ms.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Act, Error, Result};

const POLL: Duration = Duration::from_millis(20);

/// A connection in command mode.
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects as soon as the socket is there, within 30 s.
    pub(crate) fn connect(dir: &Path, emulator: &mut Child) -> Result<Self> {
        let path = dir.join("qmp.sock");
        let deadline = Instant::now() + Duration::from_secs(30);
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => {
                    ensure_alive(dir, emulator)?;
                    std::thread::sleep(POLL);
                }
                Err(source) => {
                    return Err(source).act(|| format!("connect to {}", path.display()));
                }
            }
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .act(|| "set the monitor's deadline".into())?;
        let mut monitor = Self { reader: BufReader::new(stream) };
        monitor.read()?;
        monitor.ask("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Runs one command and returns its answer.
    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let act = || format!("tell the emulator to {command}");
        self.reader.get_mut().write_all(line.as_bytes()).act(act)?;
        loop {
            let mut answer = self.read()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(Error::refused(format!("the emulator refused {command}: {error}")));
            }
        }
    }

    /// Waits until a field of a query's answer has this value; `failed` ends the wait.
    pub(crate) fn await_status(
        &mut self,
        query: &str,
        wanted: &str,
        limit: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.ask(query, &json!({}))?;
            let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
            if status == wanted {
                return Ok(());
            }
            if status == "failed" || Instant::now() > deadline {
                return Err(Error::refused(format!("{query} says {status}, waited for {wanted}")));
            }
            std::thread::sleep(POLL);
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).act(|| "hear from the emulator".into())?;
        if length == 0 {
            return Err(Error::refused("the emulator closed its control socket"));
        }
        serde_json::from_str(&line)
            .map_err(|source| Error::Json { what: "the emulator's answer".into(), source })
    }
}

/// Fails with the emulator's last words when it has ended.
pub(crate) fn ensure_alive(dir: &Path, emulator: &mut Child) -> Result<()> {
    let ended = emulator.try_wait().act(|| "look after the emulator".into())?;
    let Some(status) = ended else { return Ok(()) };
    let words = std::fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
    Err(Error::refused(format!("the emulator ended with {status}: {}", words.trim_end())))
}
