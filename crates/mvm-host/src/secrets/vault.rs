//! The `Vault` port: from a source to a sealed file. It refuses to know who gets what of it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use mvm_core::{
    Error, ErrorKind,
    id::TenantId,
    port::{SecretsToSeal, Vault},
    secrets::{MAX_TOTAL, SecretsSource},
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
}

impl LocalVault {
    /// The vault of the host with these roots.
    #[must_use]
    pub const fn new(roots: Roots) -> Self {
        Self { roots }
    }
}

impl Vault for LocalVault {
    fn check(&self, source: &SecretsSource) -> Result<u32, Error> {
        Ok(read(source)?.count())
    }

    fn seal(&self, ask: &SecretsToSeal<'_>) -> Result<u32, Error> {
        let secrets = read(ask.source)?;
        let key = ask.keyed.then(|| key::load(&self.roots, ask.tenant)).transpose()?;
        let text = secrets.render(|_| true);
        secrets::stage(&self.roots, ask.tenant, ask.epoch, key.as_ref(), text)?;
        Ok(secrets.count())
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

fn read(source: &SecretsSource) -> Result<Secrets, Error> {
    let what = format!("cannot take secrets from {source}");
    let text = match source {
        SecretsSource::File(path) => read_file(path),
        SecretsSource::Stdin => read_all(io::stdin().lock()),
    };
    let text = text.map_err(|error| Error::new(kind_of(&error), what.clone()).because(&error))?;
    if text.len() > MAX_TEXT {
        let message = format!("{what}: it is longer than {MAX_TEXT} bytes");
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Secrets::parse(text).map_err(|refusal| Error::from(refusal).context(what))
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
        let vault = LocalVault::new(roots.clone());
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
}
