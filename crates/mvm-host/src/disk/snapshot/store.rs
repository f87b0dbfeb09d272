//! Writes a snapshot: from the VMM's files in memory to a synced `<epoch>.partial`.
//!
//! The header comes last: a directory without one is not complete, whatever else it holds.

use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use mvm_core::{id::InstanceRef, units::Generation};
use mvm_pager::{
    Codec, Memory, PAGE, Woken, compose,
    seal::{Piece, TAG},
    write,
};
use zeroize::Zeroizing;

use super::{
    header::{Form, Header, Manifest, SCHEMA},
    place::{self, BASE, HEADER, KEYS, Place},
    seal::{FileKey, FileKeys, Name, OsRandom, Random, Refused, wrap},
};
use crate::{
    disk::{
        base::{self, Shared},
        durable,
        error::{Act, Error},
        header::{encode, sha256},
        key::TenantKey,
        space,
    },
    roots::Roots,
};

/// What chunk index and tags add at most, in bytes a page.
const PER_PAGE: u64 = 64;

/// What a VMM wrote of its paused guest.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The directory with its files `vmstate` and `mem`.
    pub ram: &'a Path,
    /// The base that the guest stands on.
    pub base: Option<&'a Shared>,
    /// What the guest woke from, or that it was cloned, when `mem` holds only what changed since: none when
    /// the guest was booted, or when all of its memory is there.
    pub woke_from: Option<Woken<'a>>,
    /// The pages that the next wake wants first.
    pub wanted: &'a [u32],
    /// How chunks are packed.
    pub codec: Codec,
}

/// Writes a snapshot as the partial one of this epoch, sealed if there is a key, and syncs it. A
/// leftover of an earlier try goes first.
///
/// # Errors
/// `Refused` when it may not fit beside the reserve (nothing was written) or did not fit (nothing
/// stays), `Conflict` when this epoch is published or retired, `Integrity` when `mem` is not as
/// large as the header says, or what the guest woke from is not what was written.
pub fn store(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Generation,
    written: &Written<'_>,
    key: Option<&TenantKey>,
    header: Header,
) -> Result<(), mvm_core::Error> {
    let mut random = OsRandom;
    let mut writer = Writer { roots, key, random: &mut random };
    Ok(writer.store(&Place::of(roots, instance, epoch), instance, epoch, written, header)?)
}

/// How a snapshot is written.
pub(super) struct Writer<'a> {
    pub(super) roots: &'a Roots,
    pub(super) key: Option<&'a TenantKey>,
    pub(super) random: &'a mut dyn Random,
}

impl Writer<'_> {
    pub(super) fn store(
        &mut self,
        place: &Place,
        instance: &InstanceRef,
        epoch: Generation,
        written: &Written<'_>,
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
        let path = written.ram.join(Name::VmState.as_str());
        let vmstate = Zeroizing::new(fs::read(&path).act("read", &path)?);
        let path = written.ram.join(Name::Mem.as_str());
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let plain = File::options().read(true).custom_flags(nofollow).open(&path);
        let plain = plain.act("open", &path)?;
        let size = plain.metadata().act("look at", &path)?.len();
        if size != header.memory.bytes() {
            let reason = format!("its {size} bytes are not {}", header.memory);
            return Err(Error::integrity(path, reason));
        }
        let pages = size / PAGE as u64;
        let base = written.base.map(|base| base.pages(pages)).transpose()?;
        let woke_from = written.woke_from.as_ref();
        let memory = Memory { plain: &plain, pages, base: base.as_ref(), woke_from };
        let composition = compose(&memory, written.wanted).act("read", &path)?;
        let worst = composition.pages().len() as u64 * (PAGE as u64 + PER_PAGE);
        space::admit(self.roots, &place.parent, worst + (vmstate.len() + TAG) as u64)?;
        let manifest = Manifest {
            schema: SCHEMA,
            instance: instance.clone(),
            epoch,
            header,
            vmstate_bytes: vmstate.len() as u64,
            base: written.base.map(|base| hex::encode(base.header)),
            chunks_ahead: composition.ahead() as u64,
            form: match self.key {
                Some(_) => Form::Sealed,
                None => Form::Raw { vmstate_sha256: hex::encode(sha256(&vmstate)) },
            },
        };
        let text = encode(&manifest)?;
        let beneath = place.partial.join(BASE);
        let shared = match written.base {
            Some(base) => base::share(&base.dir, &beneath),
            None => durable::create_dirs(&place.partial),
        };
        let done = shared.and_then(|()| {
            self.fill(&place.partial, &text, vmstate, |target, cipher| {
                write(&memory, &composition, target, written.codec, cipher).map(drop)
            })
        });
        if done.is_err() {
            // The first failure is the one to tell; what stays is a partial that the next try or
            // the next removal takes away.
            drop(place::destroy(&place.partial));
        }
        done.and_then(|()| durable::sync_dir(&place.parent))
    }

    fn fill(
        &mut self,
        dir: &Path,
        header: &[u8],
        mut vmstate: Zeroizing<Vec<u8>>,
        memory: impl FnOnce(&File, Option<&mvm_pager::Cipher>) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let digest = sha256(header);
        let ciphers = self.keys(dir, digest)?;
        let cipher = |name: Name, path: &Path| {
            let key = ciphers.as_ref().map(|[vmstate, mem]| match name {
                Name::VmState => vmstate,
                Name::Mem => mem,
            });
            key.map(|key| key.cipher(digest, name))
                .transpose()
                .map_err(|Refused| Error::integrity(path, "the cipher refused the key"))
        };
        let path = dir.join(Name::VmState.as_str());
        if let Some(cipher) = cipher(Name::VmState, &path)? {
            let length = vmstate.len();
            vmstate.resize(length + TAG, 0);
            cipher
                .seal(Piece::Chunk(0), 1, &mut vmstate, length)
                .map_err(|Refused| Error::integrity(&path, "the cipher refused"))?;
        }
        durable::write(&path, &vmstate, 0o600)?;
        let path = dir.join(Name::Mem.as_str());
        let cipher = cipher(Name::Mem, &path)?;
        let target = durable::create_fresh(&path, 0o600)?;
        match memory(&target, cipher.as_ref()) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(Error::integrity(path, format!("what the guest woke from: {error}")));
            }
            done => done.act("write", &path)?,
        }
        target.sync_all().act("sync", &path)?;
        durable::write(&dir.join(HEADER), header, 0o600)
    }

    /// Draws the keys of both files and writes them down, wrapped.
    fn keys(&mut self, dir: &Path, header: [u8; 32]) -> Result<Option<FileKeys>, Error> {
        let Some(tenant) = self.key else { return Ok(None) };
        let path = dir.join(KEYS);
        let mut draw = || FileKey::draw(self.random).act("draw a key for", &path);
        let keys = [draw()?, draw()?];
        let wrapped = wrap(&keys, tenant, &header, self.random).act("seal", &path)?;
        durable::write(&path, &wrapped, 0o600)?;
        Ok(Some(keys))
    }
}
