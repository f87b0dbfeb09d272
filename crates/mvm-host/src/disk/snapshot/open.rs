//! Brings a published snapshot to where a VMM can load it.
//!
//! A sealed one is decrypted into a directory on a tmpfs and nowhere else; a plain one is linked
//! into the jail. Nothing is there unless everything verified. What was opened stays published:
//! retiring it before the guest runs is the caller's duty.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use mvm_core::{id::InstanceRef, units::Generation};

use super::{
    header::{Form, Header, Manifest},
    place::{HEADER, KEYS, Place},
    seal::{Cipher, Name, Refused, unwrap},
    store::hash,
    stream::{Cut, SealedFile},
};
use crate::{
    disk::{
        durable,
        error::{Act, Error},
        key::TenantKey,
        space,
    },
    roots::Roots,
};

/// The file system type of tmpfs, `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Where the VMM finds a snapshot's files, relative to the root of its jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The guest's memory.
    pub mem: PathBuf,
    /// The device state.
    pub vmstate: PathBuf,
    /// What the snapshot says of itself; verified if it was sealed.
    pub header: Header,
}

/// What a published snapshot says of itself. It is verified only by [`open()`].
///
/// # Errors
/// `NotFound` or `Conflict` when it is not published, `Integrity` when it cannot be understood.
pub fn header(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
) -> Result<Header, mvm_core::Error> {
    let place = Place::of(roots, instance, epoch);
    Ok(read(&place, instance, epoch)?.0.header)
}

/// Opens a published snapshot for the owner of the directory `into`, read-only for them.
///
/// With a key the snapshot must be sealed, and its plain files appear in `into`: a directory on a
/// tmpfs, below `jail_root`. Without a key it must be plain, and it is linked into `jail_root`, on
/// the same file system.
///
/// # Errors
/// `NotFound` or `Conflict` when it is not published, `Refused` when the tmpfs is too small,
/// `Integrity` when anything of it is not as it was written; then no file of it is left in the jail.
pub fn open(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
    key: Option<&TenantKey>,
    into: &Path,
    jail_root: &Path,
) -> Result<Opened, mvm_core::Error> {
    let place = Place::of(roots, instance, epoch);
    let (manifest, digest) = read(&place, instance, epoch)?;
    let owner = into.metadata().act("look at", into)?;
    let owner = (owner.uid(), owner.gid());
    let dir = match (&manifest.form, key) {
        (Form::Sealed { chunk_bytes }, Some(key)) => {
            let sealed = Sealed {
                dir: &place.published,
                manifest: &manifest,
                digest,
                chunk: *chunk_bytes as usize,
            };
            unless_left(into, sealed.open(key, into, owner))?;
            into
        }
        (Form::Raw { vmstate_sha256 }, None) => {
            let linked = link(&place.published, &manifest, vmstate_sha256, jail_root, owner);
            unless_left(jail_root, linked)?;
            jail_root
        }
        (Form::Sealed { .. }, None) => {
            return Err(Error::Missing {
                what: format!("the key that sealed snapshot {epoch} of {instance}"),
                hint: Some("put the tenant's key back".to_owned()),
            }
            .into());
        }
        (Form::Raw { .. }, Some(_)) => {
            let path = place.published.join(HEADER);
            return Err(
                Error::integrity(path, "the tenant has a key and this is not sealed").into()
            );
        }
    };
    let inside = dir.strip_prefix(jail_root).map_err(|_| {
        Error::Conflict(format!("{} is not in the jail {}", dir.display(), jail_root.display()))
    })?;
    Ok(Opened {
        mem: inside.join(Name::Mem.as_str()),
        vmstate: inside.join(Name::VmState.as_str()),
        header: manifest.header,
    })
}

fn read(
    place: &Place,
    instance: &InstanceRef,
    epoch: Generation,
) -> Result<(Manifest, [u8; 32]), Error> {
    if durable::exists(&place.retired)? {
        return Err(place.refuse("was resumed once and cannot be resumed again"));
    }
    if !durable::exists(&place.published)? {
        return Err(match durable::exists(&place.partial)? {
            true => place.refuse("is not published"),
            false => place.missing(),
        });
    }
    let path = place.published.join(HEADER);
    let (manifest, digest) = Manifest::read(&path)?;
    if manifest.instance != *instance || manifest.epoch != epoch {
        let found = format!("it is snapshot {} of {}", manifest.epoch, manifest.instance);
        return Err(Error::integrity(path, found));
    }
    Ok((manifest, digest))
}

/// Takes away what a failure left.
fn unless_left(dir: &Path, result: Result<(), Error>) -> Result<(), Error> {
    if result.is_err() {
        for name in Name::ALL {
            durable::remove_file(&dir.join(name.as_str()))?;
        }
    }
    result
}

struct Sealed<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    digest: [u8; 32],
    chunk: usize,
}

impl Sealed<'_> {
    fn open(&self, tenant: &TenantKey, into: &Path, owner: (u32, u32)) -> Result<(), Error> {
        let found = rustix::fs::statfs(into).act("look at", into)?;
        if found.f_type != TMPFS {
            return Err(Error::Conflict(format!("{} is not on a tmpfs", into.display())));
        }
        let path = self.dir.join(KEYS);
        let content = fs::read(&path).act("read", &path)?;
        let keys = unwrap(&content, &path, tenant, &self.digest)?;
        let mut needed = 0;
        let mut sources = Vec::new();
        for (name, key) in Name::ALL.into_iter().zip(&keys) {
            let size = match name {
                Name::VmState => self.manifest.vmstate_bytes,
                Name::Mem => self.manifest.mem_bytes,
            };
            let cut = Cut { size, chunk: self.chunk };
            let path = self.dir.join(name.as_str());
            let cipher = Cipher::new(key, self.digest, name, cut.total())
                .map_err(|Refused| Error::integrity(&path, "the cipher refused the key"))?;
            let file = File::open(&path).act("open", &path)?;
            needed += SealedFile::new(&file, &path, &cipher, cut)?.plain_bytes();
            sources.push((name, file, path, cipher, cut));
        }
        for name in Name::ALL {
            durable::remove_file(&into.join(name.as_str()))?;
        }
        space::admit_ram(into, needed)?;
        for (name, file, path, cipher, cut) in &sources {
            let sealed = SealedFile::new(file, path, cipher, *cut)?;
            let target_path = into.join(name.as_str());
            let target = durable::create_fresh(&target_path, 0o400)?;
            sealed.write_to(&target)?;
            give(&target_path, owner)?;
        }
        Ok(())
    }
}

fn link(
    from: &Path,
    manifest: &Manifest,
    vmstate_sha256: &str,
    jail_root: &Path,
    owner: (u32, u32),
) -> Result<(), Error> {
    for (name, size) in [(Name::VmState, manifest.vmstate_bytes), (Name::Mem, manifest.mem_bytes)] {
        let path = from.join(name.as_str());
        let file = File::open(&path).act("open", &path)?;
        if file.metadata().act("look at", &path)?.len() != size {
            return Err(Error::integrity(path, format!("it is not {size} bytes long")));
        }
        if name == Name::VmState && hex::encode(hash(&file, &path)?) != vmstate_sha256 {
            return Err(Error::integrity(path, "it is not the device state that was written"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).act("protect", &path)?;
        give(&path, owner)?;
        let target = jail_root.join(name.as_str());
        durable::remove_file(&target)?;
        fs::hard_link(&path, &target).act("link", &target)?;
    }
    Ok(())
}

fn give(path: &Path, (uid, gid): (u32, u32)) -> Result<(), Error> {
    let found = path.metadata().act("look at", path)?;
    if (found.uid(), found.gid()) == (uid, gid) {
        return Ok(());
    }
    chown(path, Some(uid), Some(gid)).act("give away", path)
}
