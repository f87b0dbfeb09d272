//! What a person wrote in a file: a pool's routing table and integrations, a deployment's manifest.
//!
//! A file is JSON, or TOML when its name ends so; `-` is standard input. All findings come together, each with its place
//! in the document. Nothing is changed here; the operations check what they get once more.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use mvm_core::{
    document::Findings,
    error::{Error, ErrorKind},
    id::PoolRef,
    integration::{self, Integration},
    pool::{PoolDefaults, Source},
    route::{self, RoutingTable},
    secrets::{self, SecretsSource, ValueSource},
};
use serde_json::Value;

use crate::{Mvm, forward::CallerPath, mvmfile};

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

    /// What a pool's instances get that has this source, unless it is said otherwise.
    ///
    /// # Errors
    /// `NotFound` and `Invalid` of the `Mvmfile.toml` that a directory has.
    pub fn pool_defaults(&self, source: &Source) -> Result<PoolDefaults, Error> {
        mvmfile::pool_defaults(source)
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
    let text = text(file)?;
    let wrong = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Invalid, format!("cannot read {}: {error}", file.typed()))
    };
    if is_toml(file) {
        toml::from_str(&text).map_err(|error| wrong(&where_in(&text, &error)))
    } else {
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    }
}

/// What is written in a file of a person.
pub(crate) fn text(file: &CallerPath) -> Result<String, Error> {
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
    Ok(text)
}

fn is_toml(file: &CallerPath) -> bool {
    Path::new(file.typed()).extension().is_some_and(|extension| extension == "toml")
}

/// What is wrong, and where; the line itself is not quoted, since it may hold a secret.
pub(crate) fn where_in(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|one| *one != '\n').count() + 1;
    let what = error.message().lines().next().unwrap_or_default().to_owned();
    format!("line {line}, column {column}: {what}")
}

/// These places, with files named from `directory`.
pub(crate) fn absolute(
    places: BTreeMap<String, ValueSource>,
    directory: &Path,
) -> BTreeMap<String, ValueSource> {
    let absolute = |place| match place {
        ValueSource::File(path) => ValueSource::File(directory.join(path)),
        ValueSource::Env(name) => ValueSource::Env(name),
    };
    places.into_iter().map(|(key, place)| (key, absolute(place))).collect()
}

/// Where secrets come from that a person gave by this name: the file itself, or the places that a TOML
/// file has in its table `secrets`; its `overrides`, as of a deployment, are passed over.
///
/// # Errors
/// `Invalid` with one cause for each finding, none of which quotes a value.
pub fn secrets_source(file: &CallerPath) -> Result<SecretsSource, Error> {
    if file.is_stream() {
        return Ok(SecretsSource::Stdin);
    }
    let path = std::path::absolute(file).map_err(|error| {
        let message = format!("{} is not a file's name", file.typed());
        Error::new(ErrorKind::Invalid, message).because(&error)
    })?;
    if !is_toml(file) {
        return Ok(SecretsSource::File(path));
    }
    let value = read(file)?;
    let mut findings = Findings::new();
    let map = findings.object(&value, "", &["secrets", "overrides"]);
    let places = map.and_then(|map| findings.needed(map, "", "secrets"));
    let places = places.map(|value| secrets::places(value, "secrets", &mut findings));
    findings.settle(file.typed())?;
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    Ok(SecretsSource::Each(absolute(places.unwrap_or_default(), directory)))
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
        let places = write("c.toml", "[secrets]\na = { file = \"./s/a\" }\nb = { env = \"B\" }\n");
        let SecretsSource::Each(each) = secrets_source(&places).unwrap() else { unreachable!() };
        assert_eq!(each.get("a"), Some(&ValueSource::File(directory.path().join("./s/a"))));
        let unquoted = write("d.toml", "[secrets]\na = hunter2\n");
        let error = secrets_source(&unquoted).unwrap_err();
        assert!(error.message.contains("line 2, column 5"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let broken = write("b.json", "{");
        let error = read(&broken).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains("b.json") && error.message.contains("line 1"), "{error}");
    }
}
