//! This machine as the place for microVMs: nothing to start, nothing to forward.
//!
//! Making it ready means Debian's packages, the kernel's modules, Firecracker and the default image.

use mvm_core::{error::Error, port::Progress};

use super::{HostKind, MachineState, Packages, Provider, spawn};
use crate::{
    config::Config,
    forward::{self, Link, Published},
    wiring,
};

/// Programs that a host needs, and the packages that bring them.
const NEEDS: &[spawn::Need] = &[
    spawn::Need { program: "nft", package: "nftables" },
    spawn::Need { program: "ip", package: "iproute2" },
    spawn::Need { program: "mke2fs", package: "e2fsprogs" },
    spawn::Need { program: "cryptsetup", package: "cryptsetup-bin" },
];
/// Modules that a host needs; one that is built in or absent is not an error here, `doctor` tells.
const MODULES: &[&str] = &["kvm", "tun", "bridge", "dm_crypt", "loop", "nf_tables"];

/// This machine.
pub struct Native {
    config: Config,
}

impl Native {
    /// This machine under a configuration.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config }
    }
}

impl Provider for Native {
    fn kind(&self) -> HostKind {
        HostKind::Native
    }

    fn look(&self) -> Result<MachineState, Error> {
        Ok(MachineState::Running)
    }

    fn ensure_made(&self, packages: Packages, progress: &dyn Progress) -> Result<(), Error> {
        spawn::ensure_packages(NEEDS, packages, progress)?;
        for module in MODULES {
            spawn::load_module(module);
        }
        wiring::make_directories(&self.config)?;
        wiring::builder(&self.config).ensure_default(progress).map(drop)
    }

    fn ensure_started(&self, _progress: &dyn Progress) -> Result<(), Error> {
        Ok(())
    }

    fn ensure_stopped(&self, _progress: &dyn Progress) -> Result<(), Error> {
        Ok(())
    }

    fn ensure_removed(&self, _progress: &dyn Progress) -> Result<(), Error> {
        Ok(())
    }

    fn connect(&self) -> Result<Link, Error> {
        let mut link = spawn::local_link()?;
        forward::hello(&mut link)?;
        Ok(link)
    }

    fn ensure_published(&self, _ports: &[Published]) -> Result<(), Error> {
        Ok(())
    }
}
