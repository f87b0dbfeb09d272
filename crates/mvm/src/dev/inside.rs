//! Single programs in a guest, to their end: whether they did well, and what they said.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::InstanceRef,
    port::{ExecRequest, ExecStatus, ExecStreams},
};
use mvm_engine::Context;

use crate::Mvm;

/// The most that is remembered of what a program says, in bytes.
const MOST: usize = 4096;

/// What a program said.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Streams of a program that is heard and never spoken to.
    pub(super) fn streams(&self) -> ExecStreams {
        let (_, control) = mpsc::channel();
        let (stdout, stderr) = (Box::new(self.clone()), Box::new(self.clone()));
        ExecStreams { stdin: Box::new(io::empty()), stdout, stderr, control }
    }

    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        text.trim().chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(all.len());
        all.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Mvm {
    /// Whether a program in a guest ends with 0.
    ///
    /// # Errors
    /// `Failed` when the image has no such program.
    pub(super) fn holds(
        &self,
        cx: &Context,
        id: &InstanceRef,
        argv: &[&str],
    ) -> Result<bool, Error> {
        Ok(self.ended(cx, id, argv)?.0 == ExecStatus::Code(0))
    }

    /// Runs a program in a guest that must end with 0.
    ///
    /// # Errors
    /// `Failed` with what it said.
    pub(super) fn does(&self, cx: &Context, id: &InstanceRef, argv: &[&str]) -> Result<(), Error> {
        let (status, said) = self.ended(cx, id, argv)?;
        if status == ExecStatus::Code(0) {
            return Ok(());
        }
        let message = format!("cannot {} in {id}: {}", argv.join(" "), said.text());
        Err(Error::new(ErrorKind::Failed, message))
    }

    fn ended(
        &self,
        cx: &Context,
        id: &InstanceRef,
        argv: &[&str],
    ) -> Result<(ExecStatus, Said), Error> {
        let said = Said::default();
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecRequest { argv, env: Vec::new(), cwd: None, user: None, terminal: None };
        let status = self.instance_exec(cx, id, &request, said.streams())?;
        match status {
            ExecStatus::Absent | ExecStatus::NotExecutable => {
                let program = request.argv.first().map_or("", String::as_str);
                let message = format!("the image of {id} has no program {program}");
                Err(Error::new(ErrorKind::Failed, message))
            }
            ExecStatus::Code(_) | ExecStatus::Signal(_) => Ok((status, said)),
        }
    }
}
