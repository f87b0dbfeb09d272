//! A tenant's secrets at rest: one small sealed file per epoch.
//!
//! | file in the tenant's directory | holds |
//! |---|---|
//! | `secrets.json` | the epoch in force |
//! | `secrets.<epoch>.json` | a staged epoch: recorded and not yet published, or never recorded |
//!
//! Staged comes first, then the record, then [`publish`]: whoever needs the recorded epoch finds it
//! in one of both files, wherever a crash came between. Content is sealed under a data key of its
//! own, which the tenant's key wraps; tenant and epoch are associated data. It does not know what
//! the content is.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use mvm_core::{ErrorKind, id::TenantId, layout::data, units::Generation};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    durable,
    error::{Act, Error},
    key::{self, KeyRing, TenantKey},
    snapshot::small,
};
use crate::roots::Roots;

/// The version of the format that is written and read.
const SCHEMA: u32 = 1;
/// The longest file in bytes: hexadecimal takes twice what it stands for.
const MAX_LENGTH: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    schema: u32,
    tenant: TenantId,
    epoch: Generation,
    form: Form,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Form {
    /// AES-256-GCM; both hexadecimal.
    Sealed {
        /// The data key, wrapped by the tenant's.
        key: String,
        data: String,
    },
    /// In the clear, for development; hexadecimal.
    Plain { data: String },
}

/// Writes the secrets of an epoch beside those in force, durably; sealed when there is a key.
///
/// # Errors
/// When they cannot be written.
pub fn stage(
    roots: &Roots,
    tenant: &TenantId,
    epoch: Generation,
    key: Option<&TenantKey>,
    content: Zeroizing<Vec<u8>>,
) -> Result<(), mvm_core::Error> {
    let path = roots.data.join(data::staged_secrets(tenant, epoch));
    let form = match key {
        Some(key) => {
            let mut content = content;
            let wrapped = small::seal(&mut content, key, &associated(tenant, epoch))
                .act("seal", path.as_path())?;
            Form::Sealed { key: hex::encode(wrapped), data: hex::encode(content.as_slice()) }
        }
        None => Form::Plain { data: hex::encode(content.as_slice()) },
    };
    let envelope = Envelope { schema: SCHEMA, tenant: tenant.clone(), epoch, form };
    durable::create_dirs(&roots.data.join(data::tenant(tenant)))?;
    Ok(durable::write(&path, &encoded(&envelope)?, 0o600)?)
}

/// Puts the staged secrets of an epoch in force and removes all other staged ones; epoch 0 removes
/// everything.
///
/// # Errors
/// `NotFound` when that epoch is neither staged nor in force, `Conflict` when a later one is in
/// force.
pub fn publish(roots: &Roots, tenant: &TenantId, epoch: Generation) -> Result<(), mvm_core::Error> {
    if epoch.0 == 0 {
        return remove_all(roots, tenant);
    }
    let directory = roots.data.join(data::tenant(tenant));
    let path = roots.data.join(data::secrets(tenant));
    let in_force = published(roots, tenant)?;
    if in_force.is_some_and(|there| there > epoch) {
        return Err(Error::Conflict(format!(
            "secrets later than epoch {} of tenant {tenant} are in force",
            epoch.0
        ))
        .into());
    }
    if in_force != Some(epoch) {
        let staged = roots.data.join(data::staged_secrets(tenant, epoch));
        if !durable::exists(&staged)? {
            return Err(missing(tenant, epoch).into());
        }
        durable::rename(&staged, &path)?;
    }
    for name in staged_names(&directory)? {
        durable::shred(&directory.join(name))?;
    }
    Ok(())
}

/// Overwrites and removes all secrets of a tenant, without looking into them.
///
/// # Errors
/// When something of it stays.
pub fn remove_all(roots: &Roots, tenant: &TenantId) -> Result<(), mvm_core::Error> {
    let directory = roots.data.join(data::tenant(tenant));
    for name in staged_names(&directory)? {
        durable::shred(&directory.join(name))?;
    }
    Ok(durable::shred(&roots.data.join(data::secrets(tenant)))?)
}

/// The epoch in force; none without secrets.
///
/// # Errors
/// `Integrity` when the file is damaged.
pub fn published(roots: &Roots, tenant: &TenantId) -> Result<Option<Generation>, mvm_core::Error> {
    let path = roots.data.join(data::secrets(tenant));
    Ok(read(&path)?.map(|envelope| envelope.epoch))
}

/// Whether something is staged or was left half-written.
///
/// # Errors
/// When the directory cannot be read.
pub fn is_staged(roots: &Roots, tenant: &TenantId) -> Result<bool, mvm_core::Error> {
    Ok(!staged_names(&roots.data.join(data::tenant(tenant)))?.is_empty())
}

/// Opens the secrets of this epoch or of a later one in force, and says of which.
///
/// # Errors
/// `NotFound` when there are none, `Integrity` when the tenant's key does not open them.
pub fn open(
    roots: &Roots,
    tenant: &TenantId,
    at_least: Generation,
) -> Result<(Generation, Zeroizing<Vec<u8>>), mvm_core::Error> {
    let (in_force, staged) = (
        roots.data.join(data::secrets(tenant)),
        roots.data.join(data::staged_secrets(tenant, at_least)),
    );
    // The staged file gets its other name at any moment, so that one is looked at again; and both
    // their wrapping and the tenant's key may be others between the looks at the two.
    let mut locked = None;
    for path in [&in_force, &staged, &in_force] {
        if let Some(envelope) = read(path)?
            && envelope.epoch >= at_least
        {
            let epoch = envelope.epoch;
            match unseal(roots, tenant, envelope, path) {
                Ok(content) => return Ok((epoch, content)),
                Err(error) if error.kind == ErrorKind::Integrity => locked = Some(error),
                Err(error) => return Err(error),
            }
        }
    }
    Err(locked.unwrap_or_else(|| missing(tenant, at_least).into()))
}

/// Makes all secrets files of a tenant open with the newest key alone. One that was not written to its
/// end is left: nothing will open it.
///
/// # Errors
/// `Integrity` when neither key opens one; then that file and the later ones are as they were, and
/// trying again goes on.
pub fn rekey(roots: &Roots, tenant: &TenantId, ring: &KeyRing) -> Result<(), mvm_core::Error> {
    let directory = roots.data.join(data::tenant(tenant));
    let mut names = staged_names(&directory)?;
    names.push("secrets.json".to_owned());
    for name in names.iter().filter(|name| !name.ends_with(".partial")) {
        let path = directory.join(name);
        let Some(mut envelope) = read(&path)? else { continue };
        let what = associated(tenant, envelope.epoch);
        let Form::Sealed { key, .. } = &mut envelope.form else { continue };
        let wrapped = decoded(key, &path)?;
        if small::unwrap(&wrapped, ring.newest(), &what).is_ok() {
            continue;
        }
        let older = ring.older().ok_or_else(|| refused(&path))?;
        let again =
            small::rewrap(&wrapped, older, ring.newest(), &what).map_err(|_| refused(&path))?;
        *key = hex::encode(again);
        durable::write_shredding(&path, &encoded(&envelope)?, 0o600)?;
    }
    Ok(())
}

fn unseal(
    roots: &Roots,
    tenant: &TenantId,
    envelope: Envelope,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, mvm_core::Error> {
    if envelope.tenant != *tenant {
        return Err(Error::integrity(path, "it belongs to another tenant").into());
    }
    match envelope.form {
        Form::Plain { data } => {
            let data = Zeroizing::new(data);
            Ok(Zeroizing::new(decoded(&data, path)?))
        }
        Form::Sealed { key: wrapped, data } => {
            let what = associated(tenant, envelope.epoch);
            let (wrapped, data) = (decoded(&wrapped, path)?, decoded(&data, path)?);
            for key in key::ring(roots, tenant)?.all() {
                let mut content = Zeroizing::new(data.clone());
                if small::open(&mut content, &wrapped, key, &what).is_ok() {
                    return Ok(content);
                }
            }
            Err(refused(path).into())
        }
    }
}

fn associated(tenant: &TenantId, epoch: Generation) -> Vec<u8> {
    format!("mvm secrets {SCHEMA}\0{tenant}\0{}", epoch.0).into_bytes()
}

fn refused(path: &Path) -> Error {
    Error::integrity(path, "the tenant's key does not open it")
}

fn missing(tenant: &TenantId, epoch: Generation) -> Error {
    Error::Missing {
        what: format!("the secrets of tenant {tenant} of epoch {}", epoch.0),
        hint: Some(format!("set them again: mvm tenant secrets set {tenant} --from-file FILE")),
    }
}

fn decoded(text: &str, path: &Path) -> Result<Vec<u8>, Error> {
    hex::decode(text).map_err(|_| Error::integrity(path, "it is not hexadecimal"))
}

fn staged_names(directory: &Path) -> Result<Vec<String>, Error> {
    let names = durable::names(directory)?.into_iter();
    Ok(names.filter(|name| name.starts_with("secrets.") && name != "secrets.json").collect())
}

fn encoded(envelope: &Envelope) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut text = Zeroizing::new(
        serde_json::to_vec(envelope)
            .map_err(|error| Error::Conflict(format!("cannot encode secrets: {error}")))?,
    );
    text.push(b'\n');
    Ok(text)
}

fn read(path: &Path) -> Result<Option<Envelope>, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.act("open", path)?,
    };
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_LENGTH + 1).read_to_end(&mut text).act("read", path)?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(Error::integrity(path, "it is longer than any secrets"));
    }
    let parsed: Result<Envelope, _> = serde_json::from_slice(&text);
    match parsed {
        Ok(envelope) if envelope.schema == SCHEMA => Ok(Some(envelope)),
        Ok(envelope) => Err(Error::integrity(
            path,
            format!("it has schema {}, and {SCHEMA} is known", envelope.schema),
        )),
        // The parser's own words may quote the file.
        Err(error) => Err(Error::integrity(path, format!("line {} is damaged", error.line()))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;
    use crate::disk::{ground, rekey as rotation};

    struct Place {
        _dir: tempfile::TempDir,
        roots: Roots,
        tenant: TenantId,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let roots = ground::roots(dir.path());
            let tenant: TenantId = "acme".parse().unwrap();
            key::ensure(&roots, &tenant).unwrap();
            Self { _dir: dir, roots, tenant }
        }

        fn key(&self) -> TenantKey {
            key::load(&self.roots, &self.tenant).unwrap()
        }

        fn stage(&self, epoch: u64, text: &str) {
            let content = Zeroizing::new(text.as_bytes().to_vec());
            stage(&self.roots, &self.tenant, Generation(epoch), Some(&self.key()), content)
                .unwrap();
        }

        fn publish(&self, epoch: u64) -> Result<(), ErrorKind> {
            publish(&self.roots, &self.tenant, Generation(epoch)).map_err(|error| error.kind)
        }

        fn open(&self, at_least: u64) -> Result<(u64, String), ErrorKind> {
            let opened = open(&self.roots, &self.tenant, Generation(at_least));
            let (epoch, text) = opened.map_err(|error| error.kind)?;
            Ok((epoch.0, String::from_utf8(text.to_vec()).unwrap()))
        }

        fn names(&self) -> Vec<String> {
            durable::names(&self.roots.data.join(data::tenant(&self.tenant))).unwrap()
        }
    }

    #[test]
    fn a_recorded_epoch_is_found_before_and_after_it_is_published() {
        let place = Place::new();
        assert_eq!(place.open(1), Err(ErrorKind::NotFound));
        place.stage(1, "one");
        assert_eq!(place.open(1), Ok((1, "one".to_owned())));
        place.publish(1).unwrap();
        place.publish(1).unwrap();
        assert_eq!(place.open(1), Ok((1, "one".to_owned())));
        place.stage(2, "never recorded");
        assert_eq!(place.open(1), Ok((1, "one".to_owned())), "what is staged is not in force");
        place.stage(2, "two");
        assert_eq!(place.open(2), Ok((2, "two".to_owned())));
        place.publish(2).unwrap();
        assert_eq!(place.open(1), Ok((2, "two".to_owned())), "newer than asked for is fine");
        assert_eq!(place.publish(1), Err(ErrorKind::Conflict));
        assert_eq!(place.publish(3), Err(ErrorKind::NotFound));
        assert_eq!(published(&place.roots, &place.tenant).unwrap(), Some(Generation(2)));
        assert_eq!(place.names(), ["secrets.json"]);
        place.stage(3, "left behind");
        assert!(is_staged(&place.roots, &place.tenant).unwrap());
        place.publish(2).unwrap();
        assert!(!is_staged(&place.roots, &place.tenant).unwrap());
        place.publish(0).unwrap();
        assert_eq!(place.names(), [""; 0]);
    }

    #[test]
    fn the_file_is_its_owners_only_unreadable_and_any_changed_byte_is_noticed() {
        let place = Place::new();
        place.stage(1, "hunter2");
        place.publish(1).unwrap();
        let path = place.roots.data.join(data::secrets(&place.tenant));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(!text.contains("hunter2") && !text.contains(&hex::encode("hunter2")));
        for place_of_byte in 0..whole.len() - 1 {
            let mut changed = whole.clone();
            let byte = changed.get_mut(place_of_byte).unwrap();
            *byte = if *byte == b'0' { b'1' } else { b'0' };
            fs::write(&path, &changed).unwrap();
            let opened = place.open(1);
            assert!(opened.is_err(), "byte {place_of_byte} of {text}: {opened:?}");
        }
    }

    #[test]
    fn each_staging_has_a_key_of_its_own_and_an_epoch_is_not_taken_for_another() {
        let place = Place::new();
        place.stage(1, "same");
        let staged = place.roots.data.join(data::staged_secrets(&place.tenant, Generation(1)));
        let first = fs::read_to_string(&staged).unwrap();
        place.stage(1, "same");
        let second = fs::read_to_string(&staged).unwrap();
        assert_ne!(first, second);
        let other = place.roots.data.join(data::staged_secrets(&place.tenant, Generation(2)));
        fs::write(&other, second.replace("\"epoch\":1", "\"epoch\":2")).unwrap();
        assert_eq!(place.open(2), Err(ErrorKind::Integrity));
    }

    /// Every file as it is on disk.
    fn image(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        for directory in [data::tenant(&place.tenant), PathBuf::from(data::KEYS)] {
            let directory = place.roots.data.join(directory);
            for name in durable::names(&directory).unwrap() {
                let path = directory.join(name);
                all.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
        all
    }

    fn differences(before: &[(PathBuf, Vec<u8>)], after: &[(PathBuf, Vec<u8>)]) -> Vec<PathBuf> {
        let changed = after.iter().filter(|file| !before.contains(file));
        changed.map(|(path, _)| path.clone()).collect()
    }

    #[test]
    fn secrets_open_after_every_act_of_a_rotation_and_then_with_the_new_key_alone() {
        let place = Place::new();
        place.stage(1, "one");
        place.publish(1).unwrap();
        place.stage(2, "two");
        let all_open = |when: &str| {
            assert_eq!(place.open(1), Ok((1, "one".to_owned())), "{when}");
            assert_eq!(place.open(2), Ok((2, "two".to_owned())), "{when}");
        };
        let old = fs::read(place.roots.data.join(data::key(&place.tenant))).unwrap();
        rotation::draw(&place.roots, &place.tenant).unwrap();
        all_open("with a next key");
        place.stage(3, "three");
        assert_eq!(place.open(3), Ok((3, "three".to_owned())), "sealed while it goes on");
        let before = image(&place);
        let ring = key::ring(&place.roots, &place.tenant).unwrap();
        rekey(&place.roots, &place.tenant, &ring).unwrap();
        all_open("wrapped again");
        let after = image(&place);
        assert_eq!(differences(&before, &after).len(), 2, "what has the next key stays");
        // A crash between any two files.
        for (path, content) in &before {
            if differences(&before, &after).contains(path) {
                let whole = fs::read(path).unwrap();
                fs::write(path, content).unwrap();
                all_open("half of them wrapped again");
                fs::write(path, whole).unwrap();
            }
        }
        fs::write(&before.first().unwrap().0, &before.first().unwrap().1).unwrap();
        rotation::promote(&place.roots, &place.tenant).unwrap();
        rotation::promote(&place.roots, &place.tenant).unwrap();
        all_open("with the new key alone");
        assert_eq!(place.open(3), Ok((3, "three".to_owned())));
        assert!(!key::next_exists(&place.roots, &place.tenant).unwrap());
        fs::write(place.roots.data.join(data::key(&place.tenant)), old).unwrap();
        assert_eq!(place.open(1), Err(ErrorKind::Integrity), "the old key opens nothing");
    }

    #[test]
    fn a_key_stays_while_it_alone_opens_secrets() {
        let place = Place::new();
        place.stage(1, "one");
        place.publish(1).unwrap();
        let path = place.roots.data.join(data::secrets(&place.tenant));
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.replace("\"epoch\":1", "\"epoch\":7")).unwrap();
        rotation::draw(&place.roots, &place.tenant).unwrap();
        let refused = rotation::promote(&place.roots, &place.tenant).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Integrity);
        assert!(key::next_exists(&place.roots, &place.tenant).unwrap(), "both keys are kept");
        fs::write(&path, whole).unwrap();
        rotation::promote(&place.roots, &place.tenant).unwrap();
        assert_eq!(place.open(1), Ok((1, "one".to_owned())));
    }

    #[test]
    fn without_a_key_they_are_plain_and_still_their_owners_only() {
        let place = Place::new();
        let content = Zeroizing::new(b"dev".to_vec());
        stage(&place.roots, &place.tenant, Generation(1), None, content).unwrap();
        let staged = place.roots.data.join(data::staged_secrets(&place.tenant, Generation(1)));
        assert_eq!(staged.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(place.open(1), Ok((1, "dev".to_owned())));
    }
}
