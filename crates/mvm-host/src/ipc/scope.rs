//! For whom a caller may act: root and the agent's user for all, a member of the group for this host's
//! own tenants and what root granted.
//!
//! Grants are lines `<uid> <tenant>` of a file that only root may write; another owner or a mode that
//! lets others write makes it worth nothing.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path};

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

/// Reads the grants; an absent file grants nothing, and so does one that others than root could write.
#[must_use]
pub fn grants(file: &Path) -> Vec<(u32, TenantId)> {
    let Ok(facts) = fs::symlink_metadata(file) else { return Vec::new() };
    if facts.uid() != 0 || facts.mode() & 0o022 != 0 || !facts.is_file() {
        tracing::warn!(file = %file.display(), "grants are ignored: others than root can write them");
        return Vec::new();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut out = Vec::new();
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words = line.split_once(char::is_whitespace);
        let grant = words.and_then(|(uid, tenant)| {
            Some((uid.parse().ok()?, tenant.trim().parse::<TenantId>().ok()?))
        });
        match grant {
            Some(grant) => out.push(grant),
            None => tracing::warn!(line, "a grant makes no sense"),
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
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
}
