//! Where microVMs run: on this machine, or in a Linux machine that `mvm` keeps for them.
//!
//! ```text
//! MVM_HOST=auto ─ KVM boots a guest? ─ yes ─▶ native: right here
//!                                   └─ no ──▶ a machine was made? ─ yes ─▶ qemu: forward into it
//!                                                                └─ no ──▶ refused: `mvm bootstrap`
//! MVM_HOST=lima ─▶ lima: forward into the machine that Lima keeps
//! ```
//! A provider makes, starts, stops and removes a machine, and connects to the `mvm` inside. It
//! refuses to know what is said over a connection (see [`crate::forward`]) and what a microVM is.
//! Every act is idempotent and can be repeated after a crash; `contract` holds what all promise.

#[cfg(test)]
mod contract;
mod files;
mod lima;
mod machine;
mod native;
mod programs;
mod published;
mod qemu;
mod spawn;

use std::fmt;

use mvm_core::{
    error::{Error, ErrorKind},
    port::Progress,
};
use mvm_host::kvm::{self, Kvm};
use serde::{Deserialize, Serialize};

pub use lima::Lima;
pub use machine::Machine;
pub use native::Native;
pub use qemu::{Qemu, base_key};

use crate::{
    config::Config,
    dev::Ground,
    forward::{Link, Published},
    wiring,
};

/// Which provider is wanted (`MVM_HOST`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostChoice {
    /// The first that works.
    #[default]
    Auto,
    /// This machine.
    Native,
    /// A machine in QEMU.
    Qemu,
    /// A machine in Lima.
    Lima,
}

/// A provider's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKind {
    /// This machine.
    Native,
    /// A machine in QEMU.
    Qemu,
    /// A machine in Lima.
    Lima,
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Qemu => "qemu",
            Self::Lima => "lima",
        })
    }
}

/// What a provider's machine is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Never made, removed, or not made to the end.
    Absent,
    /// Made, and off.
    Stopped,
    /// Running.
    Running,
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Stopped => "stopped",
            Self::Running => "running",
        })
    }
}

/// Whether making a machine may install packages on the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packages {
    /// `mvm bootstrap`.
    Install,
    /// `mvm setup`: a missing one is an error that names it.
    Expect,
}

/// A place for microVMs. `connect` and `ensure_published` need it to run; the others are legal in
/// every state.
pub trait Provider: Send + Sync {
    /// Its name.
    fn kind(&self) -> HostKind;

    /// What there is; changes nothing and takes no time.
    ///
    /// # Errors
    /// When the truth cannot be read.
    fn look(&self) -> Result<MachineState, Error>;

    /// Makes whatever is missing, and leaves what is there.
    ///
    /// # Errors
    /// What could not be made; repeating goes on from there.
    fn ensure_made(&self, packages: Packages, progress: &dyn Progress) -> Result<(), Error>;

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// `NotFound` when it was not made, `Unavailable` when it does not come up.
    fn ensure_started(&self, progress: &dyn Progress) -> Result<(), Error>;

    /// Stops it; what was acknowledged inside is kept.
    ///
    /// # Errors
    /// When it does not end.
    fn ensure_stopped(&self, progress: &dyn Progress) -> Result<(), Error>;

    /// Removes it with all that is in it, and nothing else.
    ///
    /// # Errors
    /// What could not be removed.
    fn ensure_removed(&self, progress: &dyn Progress) -> Result<(), Error>;

    /// Connects to a waiting `mvm __forwarded` of the caller's build, whose hello was heard.
    ///
    /// # Errors
    /// `Unavailable` when it does not run or answer.
    fn connect(&self) -> Result<Link, Error>;

    /// Makes exactly these ports of the machine answer on the caller's loopback.
    ///
    /// # Errors
    /// The port that cannot be had.
    fn ensure_published(&self, ports: &[Published]) -> Result<(), Error>;
}

/// Where commands run.
pub enum Place {
    /// Here.
    Here,
    /// In a machine, through its provider.
    There(Box<dyn Provider>),
}

/// Where the commands of this configuration run.
///
/// # Errors
/// `Unavailable` when nothing can run microVMs, with what to do about it.
pub fn place(config: &Config) -> Result<Place, Error> {
    if crate::forward::is_far() || wiring::is_guarded(config) {
        return Ok(Place::Here);
    }
    let qemu = || Qemu::new(config.clone());
    match config.host {
        HostChoice::Native => Ok(Place::Here),
        HostChoice::Lima => there(Lima::new(config.clone())),
        HostChoice::Qemu => there(qemu()),
        HostChoice::Auto => {
            let verdict = kvm::verdict(&wiring::roots(config));
            let qemu = qemu();
            match (verdict.kvm, qemu.look()?) {
                (Kvm::Usable, _) | (Kvm::Unknown, MachineState::Absent) => Ok(Place::Here),
                (_, MachineState::Stopped | MachineState::Running) => {
                    Ok(Place::There(Box::new(qemu)))
                }
                (Kvm::Unusable, MachineState::Absent) => Err(kvm::refusal(&verdict.detail)),
            }
        }
    }
}

/// What there is for microVMs to run on.
///
/// # Errors
/// When the truth cannot be read.
pub fn ground(config: &Config) -> Result<Ground, Error> {
    match place(config) {
        Ok(Place::Here) if wiring::is_guarded(config) => Ok(Ground::Ready),
        Ok(Place::Here) if wiring::builder(config).is_equipped() => Ok(Ground::Ready),
        Ok(Place::Here) => Ok(Ground::Unequipped),
        Ok(Place::There(machine)) => Ok(match machine.look()? {
            MachineState::Absent => Ground::Absent,
            MachineState::Stopped => Ground::Stopped,
            MachineState::Running => Ground::Ready,
        }),
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(match config.host {
            HostChoice::Auto | HostChoice::Native => Ground::Bare,
            HostChoice::Qemu | HostChoice::Lima => Ground::Absent,
        }),
        Err(error) => Err(error),
    }
}

/// The provider that `mvm bootstrap` works with.
///
/// # Errors
/// `Unavailable` for one that is not there.
pub fn chosen(config: &Config, progress: &dyn Progress) -> Result<Box<dyn Provider>, Error> {
    let native = || Box::new(Native::new(config.clone()));
    let qemu = || Box::new(Qemu::new(config.clone()));
    match config.host {
        HostChoice::Native => Ok(native()),
        HostChoice::Qemu => Ok(qemu()),
        HostChoice::Lima => Ok(Box::new(Lima::new(config.clone()))),
        HostChoice::Auto => {
            // The verdict needs Firecracker; without KVM at all nothing need be fetched for it.
            if std::path::Path::new("/dev/kvm").exists() {
                wiring::builder(config).ensure_vmm(progress)?;
            }
            match kvm::probe(&wiring::roots(config)).kvm {
                Kvm::Usable => Ok(native()),
                Kvm::Unusable | Kvm::Unknown => Ok(qemu()),
            }
        }
    }
}

/// In a machine that was made.
fn there(machine: impl Provider + 'static) -> Result<Place, Error> {
    match machine.look()? {
        MachineState::Absent => {
            Err(Error::new(ErrorKind::Unavailable, "the machine for microVMs was not made yet")
                .hint("run `mvm bootstrap`"))
        }
        MachineState::Stopped | MachineState::Running => Ok(Place::There(Box::new(machine))),
    }
}

/// The machine of this configuration, whether it is used or not; none where there never is one.
#[must_use]
pub fn kept_machine(config: &Config) -> Option<Box<dyn Provider>> {
    let config = (!crate::forward::is_far()).then(|| config.clone())?;
    Some(match config.host {
        HostChoice::Lima => Box::new(Lima::new(config)),
        HostChoice::Auto | HostChoice::Native | HostChoice::Qemu => Box::new(Qemu::new(config)),
    })
}
