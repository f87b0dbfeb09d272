//! For whom a caller may act: root and the agent's user for all, a member of the group for this host's
//! own tenants and what root granted.
//!
//! Grants are lines `<uid> <tenant>` of a file that only root may write; another owner or a mode that
//! lets others write makes it worth nothing.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use mvm_core::{Error, ErrorKind, id::TenantId};

/// What a caller may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything, as the operator.
    Root,
    /// Everything of this node, as its agent.
    Node,
    /// These tenants.
    Tenants(BTreeSet<TenantId>),
}

impl Scope {
    /// The scope of a uid that the socket let in.
    #[must_use]
    pub fn of(uid: u32, agent: u32, grants: &[(u32, TenantId)]) -> Self {
        if uid == 0 {
            return Self::Root;
        }
        if uid == agent {
            return Self::Node;
        }
        let granted = grants.iter().filter(|(to, _)| *to == uid).map(|(_, tenant)| tenant.clone());
        Self::Tenants(granted.chain([TenantId::local(), TenantId::runs()]).collect())
    }

    /// # Errors
    /// `Permission` for a tenant that is not in it; for `None`, what is the whole node's.
    pub fn admit(&self, tenant: Option<&TenantId>) -> Result<(), Error> {
        match self {
            Self::Root | Self::Node => Ok(()),
            Self::Tenants(tenants) => match tenant {
                Some(tenant) if tenants.contains(tenant) => Ok(()),
                Some(tenant) => Err(Error::new(
                    ErrorKind::Permission,
                    format!("you may not touch the tenant {tenant}"),
                )
                .hint("root grants it: a line `<uid> <tenant>` in grants")),
                None => Err(Error::new(ErrorKind::Permission, "this concerns the whole node")
                    .hint("root may do it: sudo mvm …")),
            },
        }
    }
}

/// What root granted, and what was found wrong with it.
#[derive(Debug)]
pub struct Grants {
    file: PathBuf,
    told: Mutex<BTreeSet<String>>,
}

impl Grants {
    /// Those of this file, which need not be there.
    #[must_use]
    pub fn of(file: PathBuf) -> Self {
        Self { file, told: Mutex::default() }
    }

    /// Reads them; an absent file grants nothing, and so does one that others than root could write. What is wrong
    /// is logged once, however often this is asked.
    #[must_use]
    pub fn read(&self) -> Vec<(u32, TenantId)> {
        let (granted, faults) = read(&self.file);
        for fault in self.news(faults) {
            tracing::warn!(file = %self.file.display(), "{fault}");
        }
        granted
    }

    /// What of this was not told yet; it counts as told.
    fn news(&self, mut faults: Vec<String>) -> Vec<String> {
        if !faults.is_empty() {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            faults.retain(|fault| told.insert(fault.clone()));
        }
        faults
    }
}

/// The grants of a file, and what is wrong with it.
fn read(file: &Path) -> (Vec<(u32, TenantId)>, Vec<String>) {
    let Ok(facts) = fs::symlink_metadata(file) else { return Default::default() };
    if facts.uid() != 0 || facts.mode() & 0o022 != 0 || !facts.is_file() {
        let fault = "grants are ignored: others than root can write them".to_owned();
        return (Vec::new(), vec![fault]);
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let (mut granted, mut faults) = (Vec::new(), Vec::new());
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words = line.split_once(char::is_whitespace);
        let grant = words.and_then(|(uid, tenant)| {
            Some((uid.parse().ok()?, tenant.trim().parse::<TenantId>().ok()?))
        });
        match grant {
            Some(grant) => granted.push(grant),
            None => faults.push(format!("a grant makes no sense: {line:?}")),
        }
    }
    (granted, faults)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_member_of_the_group_reaches_local_and_what_was_granted_and_nothing_else() {
        let acme: TenantId = "acme".parse().unwrap();
        let scope = Scope::of(1000, 990, &[(1000, acme.clone()), (1001, "other".parse().unwrap())]);
        assert!(scope.admit(Some(&TenantId::local())).is_ok());
        assert!(scope.admit(Some(&acme)).is_ok());
        for refused in [Some("other".parse().unwrap()), None] {
            assert_eq!(scope.admit(refused.as_ref()).unwrap_err().kind, ErrorKind::Permission);
        }
        assert_eq!((Scope::of(0, 990, &[]), Scope::of(990, 990, &[])), (Scope::Root, Scope::Node));
    }

    #[test]
    fn what_is_wrong_with_grants_is_told_once_for_each_cause_and_what_makes_sense_is_granted() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("grants");
        fs::write(&file, "1000 acme\n# ours\n\n1000\nroot beta\n").unwrap();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let grants = Grants::of(file.clone());
        let faults = |grants: &Grants| grants.news(read(&grants.file).1);
        // Who has no root can make no file that counts.
        if fs::metadata(&file).unwrap().uid() == 0 {
            assert_eq!(grants.read(), [(1000, "acme".parse().unwrap())]);
            assert_eq!(read(&file).1.len(), 2);
            assert_eq!(faults(&grants), [""; 0]);
        }
        mode(0o666);
        assert_eq!(grants.read(), []);
        assert_eq!((read(&file).1.len(), faults(&grants)), (1, Vec::new()));
        assert_eq!(faults(&Grants::of(file.clone())).len(), 1);
        assert_eq!(read(&place.path().join("none")), Default::default());
    }
}
