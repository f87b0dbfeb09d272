//! What a build in a builder says: told line by line, logged, and the last lines remembered for the error.
//!
//! The words are a guest's. They are told without control characters and cut where they are too long; the
//! log has them as they came. It refuses to know what a build is.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use mvm_core::{
    id::PoolRef,
    port::{ExecStreams, Progress, ProgressStep},
};

/// How many of the last lines are remembered.
const REMEMBERED: usize = 12;
/// The longest line that is told, in characters.
const TOLD: usize = 200;

/// What was heard of a build.
pub(super) struct Heard {
    pool: String,
    progress: Arc<dyn Progress>,
    inner: Mutex<Inner>,
}

struct Inner {
    log: Box<dyn Write + Send>,
    last: VecDeque<String>,
}

impl Heard {
    pub(super) fn new(
        pool: &PoolRef,
        progress: Arc<dyn Progress>,
        log: Box<dyn Write + Send>,
    ) -> Self {
        let inner = Mutex::new(Inner { log, last: VecDeque::new() });
        Self { pool: pool.to_string(), progress, inner }
    }

    /// The streams of a program that is heard and never spoken to.
    pub(super) fn streams(self: &Arc<Self>) -> ExecStreams {
        let lines = || Box::new(Lines { to: self.clone(), begun: Vec::new() });
        let (_, control) = mpsc::channel();
        ExecStreams { stdin: Box::new(io::empty()), stdout: lines(), stderr: lines(), control }
    }

    /// The last lines, oldest first.
    pub(super) fn last(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last.iter().cloned().collect()
    }

    fn line(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let told: String = text.chars().filter(|c| !c.is_control()).take(TOLD).collect();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = inner.log.write_all(bytes).and_then(|()| inner.log.write_all(b"\n")) {
            tracing::debug!(%error, "a line of a build is in no log");
        }
        if told.is_empty() {
            return;
        }
        inner.last.push_back(told.clone());
        if inner.last.len() > REMEMBERED {
            inner.last.pop_front();
        }
        drop(inner);
        let subject = self.pool.clone();
        self.progress.report(&ProgressStep { subject, activity: told, done: 0, total: 0 });
    }
}

/// Splits a stream into lines.
struct Lines {
    to: Arc<Heard>,
    begun: Vec<u8>,
}

impl Lines {
    /// A line without end is cut here, in bytes.
    const MOST: usize = 16 * 1024;
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' || self.begun.len() >= Self::MOST {
                self.to.line(&std::mem::take(&mut self.begun));
            }
            if *byte != b'\n' {
                self.begun.push(*byte);
            }
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.begun.is_empty() {
            self.to.line(&std::mem::take(&mut self.begun));
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Ear(Arc<Mutex<Vec<String>>>);

    impl Progress for Ear {
        fn report(&self, step: &ProgressStep) {
            self.0.lock().unwrap().push(step.activity.clone());
        }
    }

    #[test]
    fn a_guests_words_are_told_line_by_line_and_cannot_draw_on_a_terminal() {
        let ear = Ear::default();
        let pool = "acme/app".parse().unwrap();
        let heard = Arc::new(Heard::new(&pool, Arc::new(ear.clone()), Box::new(io::sink())));
        let mut streams = heard.streams();
        streams.stdout.write_all(b"one\ntw").unwrap();
        streams.stdout.write_all(b"o\x1b[31m\n\n").unwrap();
        streams.stderr.write_all(&[b'x'; 50_000]).unwrap();
        drop(streams);
        let told = ear.0.lock().unwrap().clone();
        assert_eq!(told.get(..2).unwrap(), ["one", "two[31m"]);
        assert!(told.iter().all(|line| line.len() <= TOLD));
        assert_eq!(heard.last(), told);
    }
}
