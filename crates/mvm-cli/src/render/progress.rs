//! Progress on standard error: a bar on a terminal, lines elsewhere, events with JSON.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mvm::{Progress, ProgressStep};

use crate::args::{Format, Global};

/// The shortest time between two lines on one subject.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Shows how far long work is, in the form that fits where it goes.
pub(crate) enum Reporter {
    Silent,
    Events,
    Lines(Mutex<BTreeMap<String, (String, Instant)>>),
    Bars(MultiProgress, Mutex<BTreeMap<String, ProgressBar>>),
}

impl Reporter {
    /// The reporter that the global flags and the terminal ask for.
    pub(crate) fn of(global: &Global) -> Self {
        if global.quiet {
            Self::Silent
        } else if global.output() != Format::Table {
            Self::Events
        } else if io::stderr().is_terminal() {
            Self::Bars(MultiProgress::new(), Mutex::default())
        } else {
            Self::Lines(Mutex::default())
        }
    }
}

impl Progress for Reporter {
    fn report(&self, step: &ProgressStep) {
        match self {
            Self::Silent => {}
            Self::Events => {
                if let Ok(line) = serde_json::to_string(&serde_json::json!({ "progress": step })) {
                    let _ = writeln!(io::stderr(), "{line}");
                }
            }
            Self::Lines(said) => {
                let Ok(mut said) = said.lock() else { return };
                let fresh = said.get(&step.subject).is_none_or(|(activity, at)| {
                    *activity != step.activity || at.elapsed() >= LINE_INTERVAL
                });
                if fresh || (step.total > 0 && step.done == step.total) {
                    said.insert(step.subject.clone(), (step.activity.clone(), Instant::now()));
                    let _ = writeln!(io::stderr(), "{}", line(step));
                }
            }
            Self::Bars(all, bars) => {
                let Ok(mut bars) = bars.lock() else { return };
                let bar = bars
                    .entry(step.subject.clone())
                    .or_insert_with(|| all.add(ProgressBar::no_length().with_style(style())));
                bar.set_prefix(step.subject.clone());
                bar.set_message(step.activity.clone());
                if step.total > 0 {
                    bar.set_length(step.total);
                }
                bar.set_position(step.done);
                if step.total > 0 && step.done == step.total {
                    bar.finish();
                }
            }
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {wide_bar:.green} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(step: &ProgressStep) -> String {
    if step.total > 0 {
        format!("{}: {} ({}/{})", step.subject, step.activity, step.done, step.total)
    } else {
        format!("{}: {}", step.subject, step.activity)
    }
}
