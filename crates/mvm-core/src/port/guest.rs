//! The agent in a guest as a port: what it is asked, and what it answers.

use std::{
    fmt, io::Read, io::Write, net::Ipv4Addr, sync::Arc, sync::mpsc::Receiver, time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    effect::Jail, error::Error, id::InstanceRef, id::OperationId, integration::Integration,
    meter::CopyReport, meter::GuestMetrics, net::Network, net::Offset, pool::Readiness,
    publish::Protocol, route::Routes, units::Generation, units::Seconds,
};

/// What the engine says to a guest's agent in the course of a plan. All are idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestAct {
    /// Waits until the agent answers.
    Await {
        /// How long at most.
        timeout: Seconds,
    },
    /// Tells a guest at its start gate the time, fresh entropy and who it is, and then lets its workload
    /// start. A guest that was told already goes on.
    Configure {
        /// Who it is, and what it has.
        jail: Box<Jail>,
        /// As that of [`GuestAct::Wake`].
        generation: u64,
        /// How long its agent may take to answer.
        timeout: Seconds,
    },
    /// Asks the guest to finish what it does.
    Drain {
        /// How long it may take.
        timeout: Seconds,
    },
    /// Saves the integrations.
    Checkpoint {
        /// Which.
        integrations: Vec<Integration>,
        /// How long all of them together may take.
        timeout: Seconds,
    },
    /// Restores the integrations.
    Restore {
        /// Which.
        integrations: Vec<Integration>,
        /// How long all of them together may take.
        timeout: Seconds,
    },
    /// Tells a gateway where it leads to from now on.
    Routes(Box<Routes>),
    /// Syncs, and freezes the workload.
    Quiesce,
    /// Tells the guest the time, fresh entropy and its network identity, and then lets its workload
    /// run.
    Wake {
        /// Its network.
        network: Network,
        /// Its place in it.
        offset: Offset,
        /// Rises with every wake; programs in the guest can watch it.
        generation: u64,
        /// The epoch of the secrets on its drive; a guest with older ones reads them first.
        secrets: Generation,
    },
    /// Tells a running guest to read its secrets drive again.
    RefreshSecrets {
        /// The epoch of the secrets on it.
        epoch: Generation,
    },
    /// Asks whether the workload serves: its programs have not failed, and it is ready as the pool says.
    Ready {
        /// Where it shall serve: the guest's own address.
        address: Ipv4Addr,
        /// What it must show; nothing more if absent.
        readiness: Option<Readiness>,
        /// How long showing it may take.
        timeout: Seconds,
    },
    /// Lets the workload run again, of a guest that never left this process.
    Thaw,
    /// Lets the file system of the data volume fill its drive.
    Resize,
    /// Asks the guest to shut down.
    Shutdown {
        /// How long it may take.
        grace: Seconds,
    },
}

/// What a guest answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestAnswer {
    /// Done.
    Done,
    /// No answer within the bound.
    Silent,
    /// It will not, and says why.
    Refused(String),
    /// It did what it could: these integrations are left.
    Partly(Vec<IntegrationFailure>),
}

/// An integration that could not be saved or restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationFailure {
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub detail: String,
}

/// A command to run in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables besides the default environment.
    pub env: Vec<(String, String)>,
    /// Working directory; `/` if absent.
    pub cwd: Option<String>,
    /// User by name or number; root if absent.
    pub user: Option<String>,
    /// A terminal of this size and kind; pipes if absent.
    pub terminal: Option<TerminalSize>,
}

/// A terminal's size and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// The value of `TERM`.
    pub term: String,
}

/// What reaches a running command besides its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecControl {
    /// A signal by its number.
    Signal(i32),
    /// The terminal's new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// Where a command's input comes from and its output goes.
pub struct ExecStreams {
    /// Standard input; closed at its end.
    pub stdin: Box<dyn Read + Send>,
    /// Standard output.
    pub stdout: Box<dyn Write + Send>,
    /// Standard error.
    pub stderr: Box<dyn Write + Send>,
    /// Signals and sizes.
    pub control: Receiver<ExecControl>,
}

/// How a command in a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecStatus {
    /// It exited.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// It never ran: there is no such program in the guest.
    Absent,
    /// It never ran: the program is there, and may not or cannot be executed.
    NotExecutable,
}

/// Something that a guest tries to reach from its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeOutcome {
    /// The target answered.
    Reachable,
    /// The target refused: it was reached.
    Refused,
    /// Somebody on the way, or the guest's own routes, said no.
    Unreachable,
    /// Nothing came back in time.
    Silent,
    /// The guest cannot try this.
    Unsupported,
}

impl ProbeOutcome {
    /// Whether the packet got to the target.
    #[must_use]
    pub const fn got_there(self) -> bool {
        match self {
            Self::Reachable | Self::Refused => true,
            Self::Unreachable | Self::Silent | Self::Unsupported => false,
        }
    }
}

impl fmt::Display for ProbeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reachable => "it answered",
            Self::Refused => "it refused",
            Self::Unreachable => "unreachable",
            Self::Silent => "no answer",
            Self::Unsupported => "its agent cannot try this",
        })
    }
}

/// The agent in a running guest.
pub trait Guest: Send + Sync {
    /// The same guests, which are told that `operation` is what they are asked for. None when they
    /// keep no log of it.
    fn for_operation(&self, operation: &OperationId) -> Option<Arc<dyn Guest>> {
        let _ = operation;
        None
    }

    /// Lets the guest try targets, all at once, each with this bound; the outcomes in their order.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer.
    fn probe(
        &self,
        instance: &InstanceRef,
        targets: &[ProbeTarget],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, Error>;

    /// Does one act.
    ///
    /// # Errors
    /// When the guest cannot be reached for a reason other than silence.
    fn ask(&self, instance: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error>;

    /// Counters of the guest; none when it does not answer in time.
    ///
    /// # Errors
    /// When the guest cannot be reached for a reason other than silence.
    fn metrics(&self, instance: &InstanceRef) -> Result<Option<GuestMetrics>, Error>;

    /// Unpacks a tar stream below a directory of the guest, which is made when missing.
    ///
    /// # Errors
    /// `Permission` for a stream that leads outside; `Unavailable` when the agent is lost.
    fn copy_in(
        &self,
        instance: &InstanceRef,
        path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error>;

    /// Sends a file or directory of the guest as a tar stream.
    ///
    /// # Errors
    /// `NotFound` when it is not there; `Unavailable` when the agent is lost.
    fn copy_out(
        &self,
        instance: &InstanceRef,
        path: &str,
        to: &mut dyn Write,
    ) -> Result<CopyReport, Error>;

    /// Runs a command to its end.
    ///
    /// # Errors
    /// `Unavailable` when the agent does not answer or is lost.
    fn exec(
        &self,
        instance: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error>;
}
