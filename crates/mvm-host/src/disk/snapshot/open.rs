//! Brings a published snapshot to where a VMM can load it.
//!
//! The device state is verified and put into a directory on a tmpfs and nowhere else. The memory stays
//! where it is: it is handed on as an open file with what opens it ([`Pages`]). What was opened stays
//! published: retiring it before the guest runs is the caller's duty.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use mvm_core::{
    id::InstanceRef,
    units::{Generation, Mib},
};
use mvm_pager::{
    PageFile, Scratch,
    read::ReadError,
    seal::{Piece, TAG},
    spec::{Seal, Spec},
};
use zeroize::Zeroizing;

use super::{
    header::{Form, Header, Manifest},
    place::{BASE, HEADER, KEYS, Place},
    seal::{FileKey, Name, Refused, unwrap},
};
use crate::{
    disk::{
        base::Shared,
        durable,
        error::{Act, Error},
        header::sha256,
        key::TenantKey,
        space,
    },
    roots::Roots,
};

/// The file system type of tmpfs, `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// An opened snapshot.
#[derive(Debug)]
pub struct Opened {
    /// The device state, relative to the root of the jail.
    pub vmstate: PathBuf,
    /// The guest's memory.
    pub pages: Pages,
    /// What the snapshot says of itself; verified if it was sealed.
    pub header: Header,
}

/// A guest's memory on disk, not verified yet: each chunk is when it is read.
#[derive(Debug)]
pub struct Pages {
    file: File,
    path: PathBuf,
    seal: Option<Seal>,
    memory: Mib,
    ahead: u64,
    /// What lies beneath.
    pub base: Option<Shared>,
}

impl Pages {
    /// What a pager is told, and the files that go with it: the page file and the base.
    #[must_use]
    pub fn into_spec(self) -> (Spec, File, Option<Shared>) {
        let spec = Spec {
            memory_pages: self.memory.bytes() / mvm_pager::PAGE as u64,
            delta: true,
            seal: self.seal,
            base: self.base.as_ref().map(|base| base.digest),
            ahead: usize::try_from(self.ahead).unwrap_or(usize::MAX),
        };
        (spec, self.file, self.base)
    }

    /// Opens it in this process; its index is verified.
    ///
    /// # Errors
    /// `Integrity` when anything of the index is not as it was written.
    pub fn read(self) -> Result<PageFile, mvm_core::Error> {
        let path = self.path;
        let cipher = self.seal.as_ref().map(Seal::cipher).transpose();
        let cipher =
            cipher.map_err(|Refused| Error::integrity(&path, "the cipher refused the key"))?;
        let pages = self.memory.bytes() / mvm_pager::PAGE as u64;
        match PageFile::open(self.file, pages, cipher) {
            Err(ReadError::Io(error)) => Ok(Err(error).act("read", &path)?),
            Err(error) => Err(Error::integrity(&path, error.to_string()).into()),
            Ok(file) => Ok(file),
        }
    }
}

impl Pages {
    /// Reads all of it.
    ///
    /// # Errors
    /// `Integrity` when anything of it is not as it was written.
    pub fn verify(self) -> Result<(), mvm_core::Error> {
        let path = self.path.clone();
        let pages = self.memory.bytes() / mvm_pager::PAGE as u64;
        let base = self.base.as_ref().map(|base| base.pages(pages)).transpose()?;
        let file = self.read()?;
        if let Some(base) = base {
            let mut page = vec![0; mvm_pager::PAGE];
            for number in (0..).take_while(|page| u64::from(*page) < pages) {
                base.verified(number, &mut page)
                    .map_err(|error| Error::integrity(&path, error.to_string()))?;
            }
        }
        let mut scratch = Scratch::new().act("read", &path)?;
        for number in 0..file.index().chunks().len() {
            file.chunk(number, &mut scratch)
                .map_err(|error| Error::integrity(&path, error.to_string()))?;
        }
        Ok(())
    }
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

/// Opens a published snapshot for the owner of the directory `into`, on a tmpfs below `jail_root`, where
/// the device state appears, for its owner to read. With a key the snapshot must be sealed, without one
/// it must not be.
///
/// # Errors
/// `NotFound` or `Conflict` when it is not published, `Refused` when the tmpfs is too small,
/// `Integrity` when anything but the memory is not as it was written; then no file of it is left in the
/// jail.
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
    let inside = into.strip_prefix(jail_root).map_err(|_| {
        Error::Conflict(format!("{} is not in the jail {}", into.display(), jail_root.display()))
    })?;
    let keys = keys(&place.published, &manifest, digest, key)?;
    let [vmstate_key, mem_key] = keys.map_or([None, None], |keys| keys.map(Some));
    let pages = pages(&place.published, &manifest, digest, mem_key)?;
    let vmstate = vmstate(&place.published, &manifest, digest, vmstate_key)?;
    let name = Name::VmState.as_str();
    put(into, name, &vmstate)?;
    Ok(Opened { vmstate: inside.join(name), pages, header: manifest.header })
}

/// The memory of the snapshot from which a guest woke; none when it is gone.
///
/// # Errors
/// `Integrity` when it cannot be understood or the key does not open it.
pub fn retired_pages(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
    key: Option<&TenantKey>,
) -> Result<Option<Pages>, mvm_core::Error> {
    let place = Place::of(roots, instance, epoch);
    if !durable::exists(&place.retired.join(HEADER))? {
        return Ok(None);
    }
    let (manifest, digest) = understood(&place.retired, instance, epoch)?;
    let keys = keys(&place.retired, &manifest, digest, key)?;
    Ok(Some(pages(&place.retired, &manifest, digest, keys.map(|[_, mem]| mem))?))
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
    understood(&place.published, instance, epoch)
}

fn understood(
    dir: &Path,
    instance: &InstanceRef,
    epoch: Generation,
) -> Result<(Manifest, [u8; 32]), Error> {
    let path = dir.join(HEADER);
    let (manifest, digest) = Manifest::read(&path)?;
    if manifest.instance != *instance || manifest.epoch != epoch {
        let found = format!("it is snapshot {} of {}", manifest.epoch, manifest.instance);
        return Err(Error::integrity(path, found));
    }
    Ok((manifest, digest))
}

/// The keys of both files, if it is sealed.
fn keys(
    dir: &Path,
    manifest: &Manifest,
    digest: [u8; 32],
    key: Option<&TenantKey>,
) -> Result<Option<[FileKey; 2]>, Error> {
    match (&manifest.form, key) {
        (Form::Sealed, Some(key)) => {
            let path = dir.join(KEYS);
            let content = fs::read(&path).act("read", &path)?;
            Ok(Some(unwrap(&content, &path, key, &digest)?))
        }
        (Form::Raw { .. }, None) => Ok(None),
        (Form::Sealed, None) => Err(Error::Missing {
            what: format!(
                "the key that sealed snapshot {} of {}",
                manifest.epoch, manifest.instance
            ),
            hint: Some("put the tenant's key back".to_owned()),
        }),
        (Form::Raw { .. }, Some(_)) => {
            Err(Error::integrity(dir.join(HEADER), "the tenant has a key and this is not sealed"))
        }
    }
}

fn pages(
    dir: &Path,
    manifest: &Manifest,
    digest: [u8; 32],
    key: Option<FileKey>,
) -> Result<Pages, Error> {
    let path = dir.join(Name::Mem.as_str());
    let file = File::open(&path).act("open", &path)?;
    let seal = key.map(|key| key.seal(digest, Name::Mem));
    let (memory, ahead) = (manifest.header.memory, manifest.chunks_ahead);
    let base = match &manifest.base {
        Some(header) => Some(beneath(&dir.join(BASE), header)?),
        None => None,
    };
    Ok(Pages { file, path, seal, memory, ahead, base })
}

/// The base that a snapshot stands on, if it is the one of which the header has the digest.
fn beneath(dir: &Path, header: &str) -> Result<Shared, Error> {
    match Shared::open(dir)? {
        Some(base) if hex::encode(base.header) == header => Ok(base),
        Some(_) => Err(Error::integrity(dir, "it is not the base that the snapshot stands on")),
        None => Err(Error::integrity(dir, "the base that the snapshot stands on is gone")),
    }
}

/// The device state, verified.
fn vmstate(
    dir: &Path,
    manifest: &Manifest,
    digest: [u8; 32],
    key: Option<FileKey>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let path = dir.join(Name::VmState.as_str());
    let length = path.metadata().act("look at", &path)?.len();
    let tag = if key.is_some() { TAG as u64 } else { 0 };
    if length != manifest.vmstate_bytes + tag {
        return Err(Error::integrity(path, format!("{length} bytes are not its length")));
    }
    let mut content = Zeroizing::new(fs::read(&path).act("read", &path)?);
    match (&manifest.form, key) {
        (Form::Raw { vmstate_sha256 }, _) => {
            if hex::encode(sha256(&content)) != *vmstate_sha256 {
                return Err(Error::integrity(path, "it is not the device state that was written"));
            }
        }
        (Form::Sealed, key) => {
            let changed = |Refused| Error::integrity(&path, "it was changed");
            let cipher = key.ok_or(Refused).and_then(|key| key.cipher(digest, Name::VmState));
            let cipher = cipher.map_err(changed)?;
            let plain = cipher.open(Piece::Chunk(0), 1, &mut content).map_err(changed)?.len();
            content.truncate(plain);
        }
    }
    Ok(content)
}

/// Puts a file into a directory on a tmpfs, for the owner of that directory to read.
///
/// # Errors
/// `Refused` when the tmpfs is too small, `Conflict` when it is none; then nothing of it stays.
pub fn put(into: &Path, name: &str, content: &[u8]) -> Result<(), mvm_core::Error> {
    let target = into.join(name);
    if let Err(error) = put_whole(into, &target, content) {
        durable::remove_file(&target)?;
        return Err(error.into());
    }
    Ok(())
}

fn put_whole(into: &Path, target: &Path, content: &[u8]) -> Result<(), Error> {
    let found = rustix::fs::statfs(into).act("look at", into)?;
    if found.f_type != TMPFS {
        return Err(Error::Conflict(format!("{} is not on a tmpfs", into.display())));
    }
    durable::remove_file(target)?;
    space::admit_ram(into, content.len() as u64)?;
    let file = durable::create_fresh(target, 0o400)?;
    std::io::Write::write_all(&mut &file, content).act("write", target)?;
    let owner = into.metadata().act("look at", into)?;
    give(target, (owner.uid(), owner.gid()))
}

fn give(path: &Path, (uid, gid): (u32, u32)) -> Result<(), Error> {
    let found = path.metadata().act("look at", path)?;
    if (found.uid(), found.gid()) == (uid, gid) {
        return Ok(());
    }
    chown(path, Some(uid), Some(gid)).act("give away", path)
}
