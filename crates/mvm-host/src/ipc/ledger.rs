//! The claims that were granted: a file each, `<data>/ledger/<name>`, which only root can read or write.
//!
//! A claim is durable before the effect that needs it is done, and is released after the effect that
//! ends it. One that a crash left behind is its owner's still. A lock on a file beside them orders the
//! effects on one subject between processes.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use mvm_core::{
    Error, ErrorKind,
    id::{InstanceId, InstanceRef, TenantId},
    layout::data,
    net::{NetId, Network},
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::admit::{self, Claim};
use crate::{
    disk::durable,
    vmm::fault::{Act, absent},
};

/// The claims on this host.
#[derive(Debug, Clone)]
pub struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    /// The ledger below this data directory.
    #[must_use]
    pub fn below(data: &std::path::Path) -> Self {
        Self { directory: data.join(data::LEDGER) }
    }

    /// Waits for its turn on a subject, which ends when what is returned is dropped.
    ///
    /// # Errors
    /// When there can be no lock.
    pub fn turn(&self, subject: &str) -> Result<File, Error> {
        let path = self.directory.join(format!("lock.{subject}"));
        let what = format!("take a turn at {}", path.display());
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                Err(rustix::io::Errno::NOENT) => {
                    durable::create_dirs(&self.directory)?;
                    continue;
                }
                file => File::from(file.act(&what)?),
            };
            match flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                locked => {
                    locked.act(&what)?;
                    return Ok(file);
                }
            }
        }
    }

    /// Who owns a name; none while nobody does.
    ///
    /// # Errors
    /// I/O errors.
    pub fn owner(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.directory.join(name);
        absent(fs::read_to_string(&path)).act(format_args!("read {}", path.display()))
    }

    /// Grants a claim, for ever or until it is released; an owner's own claim is granted again.
    ///
    /// # Errors
    /// `Permission` when the name is somebody else's.
    pub fn grant(&self, claim: &Claim) -> Result<(), Error> {
        let owner = match self.owner(&claim.name)? {
            Some(owner) => owner,
            None => {
                if let Some(net) = claim.name.strip_prefix("net.") {
                    self.disjoint(net, &claim.owner)?;
                }
                durable::create_dirs(&self.directory)?;
                let path = self.directory.join(&claim.name);
                if durable::write_unless_there(&path, claim.owner.as_bytes(), 0o600)? {
                    return Ok(());
                }
                self.owner(&claim.name)?.unwrap_or_default()
            }
        };
        if owner == claim.owner {
            return Ok(());
        }
        let message =
            format!("{} belongs to {owner} on this host, not to {}", claim.name, claim.owner);
        Err(Error::new(ErrorKind::Permission, message))
    }

    /// Frees a name.
    ///
    /// # Errors
    /// I/O errors.
    pub fn release(&self, name: &str) -> Result<(), Error> {
        if let Some(instance) = name.strip_prefix("uid-of.") {
            if let Some(uid) = self.owner(name)? {
                durable::remove_file(&self.directory.join(format!("uid.{uid}")))?;
            }
            durable::remove_file(&self.directory.join(format!("lock.{instance}")))?;
        }
        Ok(durable::remove_file(&self.directory.join(name))?)
    }

    /// Whose an instance is.
    ///
    /// # Errors
    /// I/O errors.
    pub fn instance(&self, instance: &InstanceId) -> Result<Option<InstanceRef>, Error> {
        let owner = self.owner(&admit::instance_name(instance))?;
        Ok(owner.and_then(|owner| owner.parse().ok()))
    }

    /// Whose a network is.
    ///
    /// # Errors
    /// I/O errors.
    pub fn tenant(&self, net: NetId) -> Result<Option<TenantId>, Error> {
        let owner = self.owner(&admit::network_name(net))?;
        Ok(owner.and_then(|owner| owner.split(' ').next()?.parse().ok()))
    }

    /// All networks that are claimed.
    ///
    /// # Errors
    /// I/O errors.
    pub fn networks(&self) -> Result<Vec<Network>, Error> {
        let mut out = Vec::new();
        for name in durable::names(&self.directory)? {
            let Some(net) = name.strip_prefix("net.").and_then(|net| net.parse().ok()) else {
                continue;
            };
            let Some(owner) = self.owner(&name)? else { continue };
            if let Some((tenant, subnet)) = owner.split_once(' ')
                && let (Ok(tenant), Ok(subnet)) = (tenant.parse(), subnet.parse())
            {
                out.push(Network { tenant, net: NetId(net), subnet });
            }
        }
        Ok(out)
    }

    fn disjoint(&self, net: &str, owner: &str) -> Result<(), Error> {
        let subnet = owner.split_once(' ').and_then(|(_, subnet)| subnet.parse().ok());
        let Some(subnet) = subnet else { return Ok(()) };
        let networks = self.networks()?;
        match networks.iter().find(|other| other.subnet.overlaps(subnet)) {
            None => Ok(()),
            Some(other) => Err(Error::new(
                ErrorKind::Permission,
                format!("network {net} ({owner}) shares addresses with {}", other.tenant),
            )),
        }
    }
}
