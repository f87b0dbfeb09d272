//! What a person wrote in a file: a pool's routing table and integrations, a deployment's manifest.
//!
//! A file is JSON, or TOML when its name ends so; `-` is standard input. All findings come together, each with its place
//! in the document. Nothing is changed here; the operations check what they get once more.

use std::{fs::File, io::Read, path::Path};

use mvm_core::{
    document::Findings,
    error::{Error, ErrorKind},
    id::PoolRef,
    integration::{self, Integration},
    route::{self, RoutingTable},
};
use serde_json::Value;

use crate::{Mvm, forward::CallerPath};

/// The largest manifest, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

impl Mvm {
    /// Reads the routing table of a pool's gateways from a file.
    ///
    /// # Errors
    /// `NotFound` of the tenant, `Invalid` with one cause for each finding.
    pub fn read_routes(&self, pool: &PoolRef, file: &CallerPath) -> Result<RoutingTable, Error> {
        let around = self.engine.surroundings(pool)?;
        let mut findings = Findings::new();
        let table = route::read(&read(file)?, "", &around, &mut findings);
        findings.settle(file.typed())?;
        Ok(table)
    }

    /// Reads a pool's integrations from a file: a list, or an object with the list `integrations`.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding.
    pub fn read_integrations(&self, file: &CallerPath) -> Result<Vec<Integration>, Error> {
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
        findings.settle(file.typed())?;
        Ok(all)
    }
}

pub(crate) fn read(file: &CallerPath) -> Result<Value, Error> {
    let name = file.typed();
    let wrong = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Invalid, format!("cannot read {name}: {error}"))
    };
    let source: Box<dyn Read> = if file.is_stream() {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(file).map_err(|error| wrong(&error))?)
    };
    let mut text = String::new();
    source.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX) {
        return Err(wrong(&format!("it is longer than {FILE_MAX} bytes")));
    }
    if Path::new(name).extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text).map_err(|error| wrong(&error))
    } else {
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::forward::InputPath;

    #[test]
    fn json_and_toml_say_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string().parse::<InputPath>().unwrap()
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
