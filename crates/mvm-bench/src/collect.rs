//! A command in a guest, and all that it wrote to its standard output.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc::channel},
};

use mvm_core::{
    Error,
    port::{ExecRequest, ExecStatus, ExecStreams},
};

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl io::Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `argv` by `exec`, without standard input.
pub(crate) fn output_of(
    argv: &[&str],
    exec: impl FnOnce(&ExecRequest, ExecStreams) -> Result<ExecStatus, Error>,
) -> Result<(ExecStatus, String), Error> {
    let request = ExecRequest {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
        cwd: None,
        user: None,
        terminal: None,
    };
    let said = Collected::default();
    let (_keep, control) = channel();
    let streams = ExecStreams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(said.clone()),
        stderr: Box::new(io::sink()),
        control,
    };
    let status = exec(&request, streams)?;
    let bytes = said.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}
