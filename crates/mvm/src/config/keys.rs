//! Where keys of tenants are that each command brings along: variables of the environment, for
//! development, and files. It refuses to hold a key longer than until it is handed over.
//!
//! ```toml
//! [tenant_keys]
//! acme = { file = "/run/keys/acme" }
//! beta = { env = "BETA_KEY" }
//! ```

use std::collections::BTreeMap;

use mvm_core::{
    error::{Error, ErrorKind},
    id::TenantId,
    secrets::ValueSource,
};
use mvm_host::disk::given::GivenKeys;

/// What a variable is named like that holds the key of a tenant.
const PREFIX: &str = "MVM_TENANT_KEY_";

/// The variables among these that hold keys: `MVM_TENANT_KEY_WEB_SHOP` is that of `web-shop`.
pub(super) fn named(
    names: impl Iterator<Item = String>,
) -> Result<BTreeMap<TenantId, ValueSource>, Error> {
    let mut found = BTreeMap::new();
    for name in names {
        let Some(id) = name.strip_prefix(PREFIX) else { continue };
        let is_written_large = !id.bytes().any(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let tenant = id.to_ascii_lowercase().replace('_', "-").parse::<TenantId>().ok();
        let Some(tenant) = tenant.filter(|_| is_written_large) else {
            let message = format!("{name} names no tenant");
            return Err(Error::new(ErrorKind::Invalid, message)
                .hint(format!("the key of the tenant web-shop is {PREFIX}WEB_SHOP")));
        };
        found.insert(tenant, ValueSource::Env(name));
    }
    Ok(found)
}

/// Refuses what makes no sense, and in production a key that every process may read that sees the
/// environment.
pub(super) fn admit(
    sources: &BTreeMap<TenantId, ValueSource>,
    production: bool,
) -> Result<(), Error> {
    for (tenant, source) in sources {
        match source {
            ValueSource::Env(name) if production => {
                let message = format!("in production no key is in the environment, and {name} is");
                return Err(Error::new(ErrorKind::Invalid, message)
                    .hint(format!("put it into keys/{tenant}.key below the data directory")));
            }
            ValueSource::File(path) if !path.is_absolute() => {
                let path = path.display();
                let message = format!("the key file {path} of {tenant} is not an absolute path");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            ValueSource::Env(_) | ValueSource::File(_) => {}
        }
    }
    Ok(())
}

/// The keys, or where they are.
pub(super) fn given(
    sources: &BTreeMap<TenantId, ValueSource>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<GivenKeys, Error> {
    let mut keys = GivenKeys::default();
    for (tenant, source) in sources {
        match source {
            ValueSource::File(path) => keys.file(tenant.clone(), path.clone()),
            ValueSource::Env(name) => {
                let digits = variable(name).ok_or_else(|| {
                    let what = format!("{name} is not set, and tenant {tenant} has its key there");
                    Error::new(ErrorKind::Invalid, what)
                })?;
                keys.text(tenant.clone(), name.clone(), digits);
            }
        }
    }
    Ok(keys)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<BTreeMap<TenantId, ValueSource>, Error> {
        named(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_variable_names_its_tenant_in_capitals() {
        let found = names(&["PATH", "MVM_TENANT_KEY_WEB_SHOP", "MVM_LOG"]).unwrap();
        let tenants: Vec<&str> = found.keys().map(TenantId::as_str).collect();
        assert_eq!(tenants, ["web-shop"]);
        for wrong in ["MVM_TENANT_KEY_", "MVM_TENANT_KEY_acme", "MVM_TENANT_KEY__X"] {
            assert_eq!(names(&[wrong]).unwrap_err().kind, ErrorKind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn in_production_a_key_may_be_in_a_file_and_not_in_the_environment() {
        let variable = names(&["MVM_TENANT_KEY_ACME"]).unwrap();
        admit(&variable, false).unwrap();
        assert!(admit(&variable, true).unwrap_err().to_string().contains("MVM_TENANT_KEY_ACME"));
        let tenant: TenantId = "acme".parse().unwrap();
        let file = |path: &str| BTreeMap::from([(tenant.clone(), ValueSource::File(path.into()))]);
        admit(&file("/k"), true).unwrap();
        assert_eq!(admit(&file("k"), false).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn a_variable_that_is_not_set_is_refused_by_name() {
        let sources = names(&["MVM_TENANT_KEY_ACME"]).unwrap();
        let refused = given(&sources, &|_| None).unwrap_err();
        assert!(refused.to_string().contains("MVM_TENANT_KEY_ACME"), "{refused}");
        let keys = given(&sources, &|_| Some("0f".repeat(32))).unwrap();
        assert!(keys.place(&"acme".parse().unwrap()).is_some());
    }

    #[test]
    fn the_table_of_the_file_holds_places_and_no_keys() {
        #[derive(serde::Deserialize)]
        struct Table {
            tenant_keys: BTreeMap<TenantId, ValueSource>,
        }
        let text = "[tenant_keys]\na = { file = \"/k\" }\nb = { env = \"B\" }";
        let table: Table = toml::from_str(text).unwrap();
        assert_eq!(table.tenant_keys.len(), 2);
        assert!(toml::from_str::<Table>("[tenant_keys]\na = \"0f\"").is_err());
    }
}
