//! Writes a snapshot: from the VMM's files in memory to a synced `<epoch>.partial`.
//!
//! The header comes last: a directory without one is not complete, whatever else it holds.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use mvm_core::{id::InstanceRef, units::Generation};

use super::{
    header::{Form, Header, Manifest, SCHEMA, sha256},
    place::{self, HEADER, KEYS, Place},
    seal::{Cipher, FileKey, Name, OsRandom, Random, Refused, wrap},
    sparse,
    stream::{self, Cut},
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

/// Bytes of plain text in one chunk. The cost of a chunk (tag, index entry, two system calls) is
/// lost in 256 KiB, two buffers fit a core's L2 cache, one page read alone costs about 0.1 ms, and
/// the zeros between a guest's pages are still found.
const CHUNK: u32 = 256 << 10;

/// Writes the VMM's files `vmstate` and `mem` in `ram` as the partial snapshot of this epoch,
/// sealed if there is a key, and syncs it. A leftover of an earlier try goes first.
///
/// # Errors
/// `Refused` when it may not fit beside the reserve (nothing was written) or did not fit (nothing
/// stays), `Conflict` when this epoch is published or retired, `Integrity` when `mem` is not as
/// large as the header says.
pub fn store(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
    ram: &Path,
    key: Option<&TenantKey>,
    header: Header,
) -> Result<(), mvm_core::Error> {
    let mut random = OsRandom;
    let mut writer = Writer { roots, key, chunk: CHUNK, random: &mut random };
    Ok(writer.store(&Place::of(roots, instance, epoch), instance, epoch, ram, header)?)
}

/// How a snapshot is written.
pub(super) struct Writer<'a> {
    pub(super) roots: &'a Roots,
    pub(super) key: Option<&'a TenantKey>,
    pub(super) chunk: u32,
    pub(super) random: &'a mut dyn Random,
}

/// One of the VMM's files, open.
struct Source {
    name: Name,
    file: File,
    size: u64,
}

impl Writer<'_> {
    pub(super) fn store(
        &mut self,
        place: &Place,
        instance: &InstanceRef,
        epoch: Generation,
        ram: &Path,
        header: Header,
    ) -> Result<(), Error> {
        durable::create_dirs(&place.parent)?;
        for taken in [&place.published, &place.retired] {
            if durable::exists(taken)? {
                return Err(place.refuse("was written before"));
            }
        }
        if durable::exists(&place.partial)? {
            place::destroy(&place.partial)?;
        }
        let sources = Source::open_all(ram)?;
        let [vmstate, mem] = &sources;
        if mem.size != header.memory.bytes() {
            let reason = format!("its {} bytes are not {}", mem.size, header.memory);
            return Err(Error::integrity(ram.join(mem.name.as_str()), reason));
        }
        let worst = sources.iter().map(|source| self.cut(source).worst()).sum();
        space::admit(self.roots, &place.parent, worst)?;
        let form = match self.key {
            Some(_) => Form::Sealed { chunk_bytes: self.chunk },
            None => Form::Raw { vmstate_sha256: hex::encode(vmstate.sha256(ram)?) },
        };
        let manifest = Manifest {
            schema: SCHEMA,
            instance: instance.clone(),
            epoch,
            header,
            vmstate_bytes: vmstate.size,
            mem_bytes: mem.size,
            form,
        };
        let written = self.write(&place.partial, &sources, &manifest);
        if written.is_err() {
            // The first failure is the one to tell; what stays is a partial that the next try or
            // the next removal takes away.
            drop(place::destroy(&place.partial));
        }
        written.and_then(|()| durable::sync_dir(&place.parent))
    }

    fn cut(&self, source: &Source) -> Cut {
        Cut { size: source.size, chunk: self.chunk as usize }
    }

    fn write(
        &mut self,
        dir: &Path,
        sources: &[Source; 2],
        manifest: &Manifest,
    ) -> Result<(), Error> {
        durable::create_dirs(dir)?;
        let text = manifest.encode()?;
        match self.key {
            Some(key) => self.write_sealed(dir, sources, key, sha256(&text))?,
            None => write_raw(dir, sources)?,
        }
        durable::write(&dir.join(HEADER), &text, 0o600)
    }

    fn write_sealed(
        &mut self,
        dir: &Path,
        sources: &[Source; 2],
        tenant: &TenantKey,
        header: [u8; 32],
    ) -> Result<(), Error> {
        let path = dir.join(KEYS);
        let keys = [
            FileKey::draw(self.random).act("draw a key for", &path)?,
            FileKey::draw(self.random).act("draw a key for", &path)?,
        ];
        let wrapped = wrap(&keys, tenant, &header, self.random).act("seal", &path)?;
        durable::write(&path, &wrapped, 0o600)?;
        for (source, key) in sources.iter().zip(&keys) {
            let cut = self.cut(source);
            let path = dir.join(source.name.as_str());
            let cipher = Cipher::new(key, header, source.name, cut.total())
                .map_err(|Refused| Error::integrity(&path, "the cipher refused the key"))?;
            let target = durable::create_fresh(&path, 0o600)?;
            stream::seal(&source.file, &target, cut, &cipher, &path)?;
            target.sync_all().act("sync", &path)?;
        }
        Ok(())
    }
}

fn write_raw(dir: &Path, sources: &[Source; 2]) -> Result<(), Error> {
    for source in sources {
        let path = dir.join(source.name.as_str());
        let target = durable::create_fresh(&path, 0o600)?;
        sparse::copy(&source.file, &target, source.size)
            .and_then(|()| target.sync_all())
            .act("write", &path)?;
    }
    Ok(())
}

impl Source {
    fn open_all(ram: &Path) -> Result<[Self; 2], Error> {
        Ok([Self::open(ram, Name::VmState)?, Self::open(ram, Name::Mem)?])
    }

    fn open(ram: &Path, name: Name) -> Result<Self, Error> {
        let path = ram.join(name.as_str());
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags_nofollow()
            .open(&path)
            .act("open", &path)?;
        let size = file.metadata().act("look at", &path)?.len();
        Ok(Self { name, file, size })
    }

    fn sha256(&self, ram: &Path) -> Result<[u8; 32], Error> {
        hash(&self.file, &ram.join(self.name.as_str()))
    }
}

trait NoFollow {
    fn custom_flags_nofollow(&mut self) -> &mut Self;
}

impl NoFollow for fs::OpenOptions {
    fn custom_flags_nofollow(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
    }
}

/// SHA-256 of a device state, which is small enough to be read whole.
pub(super) fn hash(mut file: &File, path: &Path) -> Result<[u8; 32], Error> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).act("read", path)?;
    Ok(sha256(&content))
}
