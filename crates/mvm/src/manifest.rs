//! What a pool's guests are told, from files: the routing table and the integrations.
//!
//! A file is JSON, or TOML when its name ends so. All findings come together, each with its place
//! in the document. Nothing is changed here; the operations check what they get once more.

use std::path::Path;

use mvm_core::{
    document::Findings,
    error::{Error, ErrorKind},
    id::PoolRef,
    integration::{self, Integration},
    route::{self, RoutingTable},
};
use serde_json::Value;

use crate::Mvm;

/// The largest manifest, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

impl Mvm {
    /// Reads the routing table of a pool's gateways from a file.
    ///
    /// # Errors
    /// `NotFound` of the tenant, `Invalid` with one cause for each finding.
    pub fn read_routes(&self, pool: &PoolRef, file: &Path) -> Result<RoutingTable, Error> {
        let around = self.engine.surroundings(pool)?;
        let mut findings = Findings::new();
        let table = route::read(&read(file)?, "", &around, &mut findings);
        findings.settle(&file.display().to_string())?;
        Ok(table)
    }

    /// Reads a pool's integrations from a file: a list, or an object with the list `integrations`.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding.
    pub fn read_integrations(&self, file: &Path) -> Result<Vec<Integration>, Error> {
        let mut findings = Findings::new();
        let document = read(file)?;
        let all = match &document {
            Value::Array(_) => integration::read(&document, "", &mut findings),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => findings
                .object(&document, "", &["integrations"])
                .and_then(|map| findings.needed(map, "", "integrations"))
                .map(|list| integration::read(list, "integrations", &mut findings))
                .unwrap_or_default(),
        };
        findings.settle(&file.display().to_string())?;
        Ok(all)
    }
}

fn read(file: &Path) -> Result<Value, Error> {
    let name = file.display();
    let wrong = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Invalid, format!("cannot read {name}: {error}"))
    };
    let size = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
    if size > FILE_MAX {
        return Err(wrong(&format!("it has {size} bytes (limit {FILE_MAX})")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    if file.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text).map_err(|error| wrong(&error))
    } else {
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn json_and_toml_say_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let json = write("a.json", r#"{"integrations": [{"name": "a", "critical": true}]}"#);
        let toml = write("a.toml", "[[integrations]]\nname = \"a\"\ncritical = true\n");
        assert_eq!(read(&json).unwrap(), read(&toml).unwrap());
        let broken = write("b.json", "{");
        let error = read(&broken).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains("b.json") && error.message.contains("line 1"), "{error}");
    }
}
