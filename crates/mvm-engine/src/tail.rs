//! Following an instance's logs, line by line, as they grow.
//!
//! It refuses to know where logs are and when they are rotated.

use std::collections::BTreeMap;

use mvm_core::{
    error::Error,
    id::InstanceRef,
    port::{LogPlace, LogSource},
};

use crate::{
    engine::{Context, Engine},
    history::Follow,
    run,
    store::records,
};

/// A longer line is given out in pieces, in bytes.
const LINE_MAX: usize = 64 * 1024;

impl Engine {
    /// Gives `sink` each line that is added to these logs from now on.
    ///
    /// # Errors
    /// `NotFound` when there is no such instance, also once it is gone; [`run::is_cancelled`] when it
    /// was cancelled; why the logs cannot be read.
    pub fn follow_logs(
        &self,
        cx: &Context,
        instance: &InstanceRef,
        sources: &[LogSource],
        sink: &mut dyn FnMut(LogSource, &str) -> Follow,
    ) -> Result<(), Error> {
        let host = &self.ports.host;
        let mut places: BTreeMap<LogSource, (LogPlace, Vec<u8>)> = BTreeMap::new();
        loop {
            self.within(|tx| records::instance(tx, instance))?;
            for source in sources {
                let from = places.get(source).map(|(place, _)| *place);
                let (text, place) = host.logs_after(instance, *source, from)?;
                let (at, unfinished) = places.entry(*source).or_default();
                *at = place;
                unfinished.extend(text);
                while let Some(line) = next_line(unfinished) {
                    if sink(*source, &line) == Follow::Enough {
                        return Ok(());
                    }
                }
            }
            cx.cancel.check()?;
            run::look_again_later(&*self.ports.clock);
        }
    }
}

/// Takes the first line, if it is whole.
fn next_line(text: &mut Vec<u8>) -> Option<String> {
    let end = text.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    let end = end.or_else(|| (text.len() >= LINE_MAX).then_some(LINE_MAX))?;
    let line: Vec<u8> = text.drain(..end).collect();
    Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}
