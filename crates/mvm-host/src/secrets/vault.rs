//! The `Vault` port: from a source to a sealed file. It refuses to know who gets what of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use mvm_core::{
    Error, ErrorKind,
    id::TenantId,
    port::{SecretsToSeal, Vault},
    secrets::{MAX_TOTAL, SecretsSource, ValueSource},
    units::Generation,
};
use zeroize::Zeroizing;

use super::Secrets;
use crate::{
    disk::{key, secrets},
    roots::Roots,
};

/// The longest text that is read, in bytes: spaces and escapes may exceed what they stand for.
const MAX_TEXT: usize = 4 * MAX_TOTAL;

/// The secrets below this host's data directory.
#[derive(Debug, Clone)]
pub struct LocalVault {
    roots: Roots,
    variable: Variable,
}

/// Gives the value of a variable of the environment; none when it is not set or not text.
pub type Variable = fn(&str) -> Option<String>;

impl LocalVault {
    /// The vault of the host with these roots.
    #[must_use]
    pub const fn new(roots: Roots, variable: Variable) -> Self {
        Self { roots, variable }
    }
}

impl Vault for LocalVault {
    fn check(&self, source: &SecretsSource) -> Result<u32, Error> {
        Ok(read(source, self.variable)?.count())
    }

    fn seal(&self, ask: &SecretsToSeal<'_>) -> Result<u32, Error> {
        let secrets = read(ask.source, self.variable)?;
        let key = ask.keyed.then(|| key::load(&self.roots, ask.tenant)).transpose()?;
        let text = secrets.render(|_| true);
        secrets::stage(&self.roots, ask.tenant, ask.epoch, key.as_ref(), text)?;
        Ok(secrets.count())
    }

    fn differs(&self, ask: &SecretsToSeal<'_>) -> Result<bool, Error> {
        let (_, sealed) = open(&self.roots, ask.tenant, ask.epoch)?;
        let offered = read(ask.source, self.variable)?;
        // What is rendered is in the order of the keys, whatever the text was like.
        Ok(*sealed.render(|_| true) != *offered.render(|_| true))
    }

    fn keys(&self, tenant: &TenantId, epoch: Generation) -> Result<Vec<String>, Error> {
        let (_, secrets) = open(&self.roots, tenant, epoch)?;
        Ok(secrets.keys().map(str::to_owned).collect())
    }
}

/// The secrets of this epoch or a later one, with their epoch.
///
/// # Errors
/// `NotFound` when there are none, `Integrity` when they do not verify.
pub(crate) fn open(
    roots: &Roots,
    tenant: &TenantId,
    at_least: Generation,
) -> Result<(Generation, Secrets), Error> {
    let (epoch, text) = secrets::open(roots, tenant, at_least)?;
    let secrets = Secrets::parse(text).map_err(|refusal| {
        Error::new(ErrorKind::Integrity, format!("the secrets of tenant {tenant} are damaged"))
            .because(&refusal)
    })?;
    Ok((epoch, secrets))
}

fn read(source: &SecretsSource, variable: Variable) -> Result<Secrets, Error> {
    let what = format!("cannot take secrets from {source}");
    let text = match source {
        SecretsSource::File(path) => read_file(path),
        SecretsSource::Stdin => read_all(io::stdin().lock()),
        SecretsSource::Each(places) => return gather(places, variable),
    };
    let text = text.map_err(|error| Error::new(kind_of(&error), what.clone()).because(&error))?;
    if text.len() > MAX_TEXT {
        let message = format!("{what}: it is longer than {MAX_TEXT} bytes");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Secrets::parse(text).map_err(|refusal| Error::from(refusal).context(what))
}

/// Reads every value from its place, without the line end that closes a file.
fn gather(places: &BTreeMap<String, ValueSource>, variable: Variable) -> Result<Secrets, Error> {
    // Every byte of a value may take six of JSON; what is never moved leaves no copy.
    let mut text = Zeroizing::new(Vec::with_capacity(6 * MAX_TOTAL + 4096));
    let mut total = 0;
    for (key, place) in places {
        let value = value(place, variable).map_err(|error| {
            let what = match place {
                ValueSource::File(path) => path.display().to_string(),
                ValueSource::Env(name) => format!("the variable {name}"),
            };
            error.context(format!("cannot take the secret {key} from {what}"))
        })?;
        total += key.len() + value.len();
        if total > MAX_TOTAL {
            let message = format!("secrets are longer than {MAX_TOTAL} bytes with {key}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let before = if text.is_empty() { b'{' } else { b',' };
        text.push(before);
        let pair = serde_json::to_writer(&mut *text, key).and_then(|()| {
            text.push(b':');
            serde_json::to_writer(&mut *text, value.as_str())
        });
        pair.map_err(|_| Error::new(ErrorKind::Failed, format!("cannot encode {key}")))?;
    }
    let end: &[u8] = if text.is_empty() { b"{}" } else { b"}" };
    text.extend_from_slice(end);
    Secrets::parse(text).map_err(|refusal| Error::from(refusal).context("cannot take secrets"))
}

fn value(place: &ValueSource, variable: Variable) -> Result<Zeroizing<String>, Error> {
    match place {
        ValueSource::Env(name) => variable(name)
            .map(Zeroizing::new)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "it is not set, or is not text")),
        ValueSource::File(path) => {
            let mut bytes = read_file(path).map_err(|error| {
                Error::new(kind_of(&error), "it cannot be read").because(&error)
            })?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| Error::new(ErrorKind::Invalid, "it is not UTF-8 text"))?;
            Ok(Zeroizing::new(text.to_owned()))
        }
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    if error.kind() == io::ErrorKind::NotFound {
        ErrorKind::NotFound
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        ErrorKind::Permission
    } else {
        ErrorKind::Invalid
    }
}

fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    read_all(File::open(path)?)
}

/// Reads to the end, or one byte more than is allowed, into memory that never moves.
fn read_all(source: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(vec![0; MAX_TEXT + 1]);
    let (mut source, mut length) = (source, 0);
    while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::ground;

    #[test]
    fn a_file_is_sealed_and_read_back_and_its_faults_name_the_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let tenant: TenantId = "acme".parse().unwrap();
        key::ensure(&roots, &tenant).unwrap();
        let vault = LocalVault::new(roots.clone(), |_| None);
        let path = dir.path().join("secrets.json");
        let source = SecretsSource::File(path.clone());
        assert_eq!(vault.check(&source).unwrap_err().kind, ErrorKind::NotFound);
        fs::write(&path, r#"{"b": "hunter2", "a": ["hunter3"]}"#).unwrap();
        let error = vault.check(&source).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let said = error.to_string();
        assert!(said.contains("secrets.json") && said.contains("of a is a list"), "{said}");
        assert!(!said.contains("hunter"), "{said}");
        fs::write(&path, r#"{"b": "hunter2", "a": ""}"#).unwrap();
        let epoch = Generation(1);
        let ask = SecretsToSeal { tenant: &tenant, epoch, keyed: true, source: &source };
        assert_eq!(vault.seal(&ask).unwrap(), 2);
        assert_eq!(vault.keys(&tenant, epoch).unwrap(), ["a", "b"]);
        assert_eq!(vault.keys(&tenant, Generation(2)).unwrap_err().kind, ErrorKind::NotFound);
        fs::write(&path, vec![b' '; MAX_TEXT + 2]).unwrap();
        assert!(vault.check(&source).unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn every_value_comes_from_its_own_place_and_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let tenant: TenantId = "acme".parse().unwrap();
        key::ensure(&roots, &tenant).unwrap();
        let variable: Variable = |name| (name == "SET").then(|| "of \"variable\"".to_owned());
        let vault = LocalVault::new(roots.clone(), variable);
        let file = dir.path().join("a");
        fs::write(&file, "of file\n").unwrap();
        let mut places = BTreeMap::from([
            ("a".to_owned(), ValueSource::File(file.clone())),
            ("b".to_owned(), ValueSource::Env("SET".to_owned())),
        ]);
        let source = SecretsSource::Each(places.clone());
        let text = || read(&source, variable).unwrap().render(|_| true);
        let object: BTreeMap<String, String> = serde_json::from_slice(&text()).unwrap();
        assert_eq!(object.get("a").unwrap(), "of file");
        assert_eq!(object.get("b").unwrap(), "of \"variable\"");
        fs::write(&file, "later").unwrap();
        let epoch = Generation(1);
        let ask = SecretsToSeal { tenant: &tenant, epoch, keyed: true, source: &source };
        assert_eq!(vault.seal(&ask).unwrap(), 2);
        assert!(!vault.differs(&ask).unwrap());
        let (_, sealed) = open(&roots, &tenant, epoch).unwrap();
        let object: BTreeMap<String, String> =
            serde_json::from_slice(&sealed.render(|_| true)).unwrap();
        assert_eq!(object.get("a").unwrap(), "later");
        fs::write(&file, "last").unwrap();
        assert!(vault.differs(&ask).unwrap());
        places.insert("c".to_owned(), ValueSource::Env("UNSET".to_owned()));
        let refused = vault.check(&SecretsSource::Each(places)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
        assert!(refused.to_string().contains("the secret c from the variable UNSET"), "{refused}");
    }
}
