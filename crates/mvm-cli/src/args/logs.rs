//! The arguments of `mvm instance logs`.

use clap::{Args, ValueEnum};
use mvm::{InstanceRef, LogSource, OperationId};

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The instance, as `<tenant>/<pool>/<instance>`
    pub(crate) instance: InstanceRef,
    /// Lines of each log
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) last: usize,
    /// Print new lines as they come, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only this log; may be repeated [default: all]
    #[arg(long, value_enum, value_name = "SOURCE")]
    source: Vec<Source>,
    /// Only lines with this operation's id
    #[arg(long, value_name = "ID")]
    pub(crate) operation: Option<OperationId>,
}

/// Which of an instance's logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// What the guest wrote to its console.
    Console,
    /// What the VMM logged.
    Vmm,
    /// What the VMM's parent had to say.
    Shim,
}

impl LogsArgs {
    /// The logs that are asked for.
    pub(crate) fn sources(&self) -> Vec<LogSource> {
        let named = self.source.iter().map(|source| match source {
            Source::Console => LogSource::Console,
            Source::Vmm => LogSource::Vmm,
            Source::Shim => LogSource::Shim,
        });
        if self.source.is_empty() { LogSource::ALL.to_vec() } else { named.collect() }
    }

    /// Whether a line is asked for.
    pub(crate) fn takes(&self, line: &str) -> bool {
        self.operation.as_ref().is_none_or(|id| line.contains(id.as_str()))
    }
}
