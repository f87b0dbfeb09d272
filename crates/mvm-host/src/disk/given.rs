//! Keys of tenants that are brought along by each command, in place of a file below the data
//! directory. It refuses to know where a command found them, and never keeps one.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use mvm_core::id::TenantId;
use zeroize::Zeroizing;

use super::{
    error::Error,
    key::{self, TenantKey},
};

/// Where the key of one tenant is.
enum Given {
    /// 64 hexadecimal digits from something of this name.
    Text { name: String, digits: Zeroizing<String> },
    /// In a file that only its owner reads.
    File(PathBuf),
}

/// The keys that a command brings along. What is wrong with one shows when it is needed.
#[derive(Default)]
pub struct GivenKeys(BTreeMap<TenantId, Given>);

impl GivenKeys {
    /// Adds a key as 64 hexadecimal digits; `name` is what a refusal calls their place.
    pub fn text(&mut self, tenant: TenantId, name: String, digits: String) {
        let digits = Zeroizing::new(digits);
        self.0.insert(tenant, Given::Text { name, digits });
    }

    /// Adds a key in a file.
    pub fn file(&mut self, tenant: TenantId, path: PathBuf) {
        self.0.insert(tenant, Given::File(path));
    }

    /// What a tenant's key is given by; none when it is not given.
    #[must_use]
    pub fn place(&self, tenant: &TenantId) -> Option<String> {
        self.0.get(tenant).map(|given| match given {
            Given::Text { name, .. } => name.clone(),
            Given::File(path) => path.display().to_string(),
        })
    }

    pub(super) fn key(&self, tenant: &TenantId) -> Result<Option<TenantKey>, Error> {
        match self.0.get(tenant) {
            None => Ok(None),
            Some(Given::File(path)) => key::read(path, &key::owner(tenant)).map(Some),
            Some(Given::Text { name, digits }) => {
                let key = TenantKey::parse(digits.as_bytes());
                match key.filter(|_| digits.len() == 2 * key::LENGTH) {
                    Some(key) => Ok(Some(key)),
                    None => Err(Error::Conflict(format!(
                        "{name} holds no key: a key is {} hexadecimal digits, nothing else",
                        2 * key::LENGTH
                    ))),
                }
            }
        }
    }
}

impl fmt::Debug for GivenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

    use mvm_core::{ErrorKind, layout};

    use super::*;
    use crate::{disk::ground, roots::Roots};

    fn given(digits: &str) -> (tempfile::TempDir, Roots, TenantId) {
        let dir = tempfile::tempdir().unwrap();
        let tenant: TenantId = "acme".parse().unwrap();
        let mut keys = GivenKeys::default();
        keys.text(tenant.clone(), "THE_VARIABLE".to_owned(), digits.to_owned());
        let roots = Roots { given: Arc::new(keys), ..ground::roots(dir.path()) };
        (dir, roots, tenant)
    }

    #[test]
    fn a_given_key_serves_and_none_is_drawn_beside_it() {
        let (_dir, roots, tenant) = given(&"0f".repeat(32));
        key::ensure(&roots, &tenant).unwrap();
        assert!(key::exists(&roots, &tenant).unwrap());
        assert_eq!(key::load(&roots, &tenant).unwrap().bytes(), &[15; 32]);
        assert!(!roots.data.join(layout::data::key(&tenant)).exists());
        let other: TenantId = "other".parse().unwrap();
        assert!(!key::exists(&roots, &other).unwrap());
        assert!(!format!("{roots:?}").contains("0f0f"));
    }

    #[test]
    fn a_given_key_beside_another_one_is_refused_and_the_same_one_is_not() {
        let (_dir, roots, tenant) = given(&"0f".repeat(32));
        let without = Roots { given: Arc::default(), ..roots.clone() };
        key::ensure(&without, &tenant).unwrap();
        let refused = key::load(&roots, &tenant).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(refused.to_string().contains("THE_VARIABLE"), "{refused}");
        assert!(key::ensure(&roots, &tenant).is_err());
        fs::write(roots.data.join(layout::data::key(&tenant)), [15; 32]).unwrap();
        key::load(&roots, &tenant).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        for wrong in ["", "0f0f", &"0f".repeat(33), &"xy".repeat(32), &"k".repeat(32)] {
            let (_dir, roots, tenant) = given(wrong);
            let refused = key::load(&roots, &tenant).err().unwrap();
            assert!(refused.to_string().contains("THE_VARIABLE holds no key"), "{refused}");
            assert!(wrong.is_empty() || !refused.to_string().contains(wrong), "{refused}");
        }
    }

    #[test]
    fn a_given_file_must_be_its_owners_alone() {
        let (dir, roots, tenant) = given("");
        let path = dir.path().join("elsewhere.key");
        fs::write(&path, "0f".repeat(32)).unwrap();
        let mut keys = GivenKeys::default();
        keys.file(tenant.clone(), path.clone());
        let roots = Roots { given: Arc::new(keys), ..roots };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(key::load(&roots, &tenant).err().unwrap().kind, ErrorKind::Permission);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(key::load(&roots, &tenant).unwrap().bytes(), &[15; 32]);
    }
}
