//! Bases on disk: what all guests of one build and size have in memory before they know who they are.
//!
//! ```text
//! <revision>/base-<size>/   header.json   of what and on what it was taken, digests of the rest
//!                           mem, sums     the memory, plain and sparse, and what its pages are
//!                           vmstate       the devices
//!                           wanted        what a guest touched after a wake, once one slept again
//! share ─► <jail>/base, <snapshot>/base   hard links to the first three
//! ```
//!
//! Whoever runs or sleeps on a base has links of its own, so that a base may go at any moment and all
//! that stand on it read through one page cache. `docs/formats/base.md` is the law of the bytes. It
//! refuses to know VMMs and when a base is taken.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use mvm_core::{
    effect::Jail,
    id::{ImageHash, PoolRef},
    layout::data,
    observed::ObservedBase,
    pool::Resources,
};
use mvm_pager::{Base, CHUNK_PAGES, PAGE, serve::EAGER};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{
    durable,
    error::{Act, Error},
    header::{self, sha256},
    snapshot::{Header, Present, header::MAX_VMSTATE},
};
use crate::roots::Roots;

const HEADER: &str = "header.json";
const MEM: &str = "mem";
const SUMS: &str = "sums";
const VMSTATE: &str = "vmstate";
/// What whoever stands on a base needs of it.
const SHARED: [&str; 3] = [HEADER, MEM, SUMS];
/// The version of the format.
const SCHEMA: u32 = 1;
/// Pages that a guest wanted after it woke, u32 little-endian each: advice that nothing depends on.
const WANTED: &str = "wanted";
/// As many bytes of it are read: as many pages as a page server puts before any fault.
const WANTED_MAX: u64 = (EAGER * CHUNK_PAGES * 4) as u64;

/// All of `header.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: u32,
    pool: PoolRef,
    size: Resources,
    header: Header,
    /// SHA-256 of the files, in hexadecimal.
    sums_sha256: String,
    vmstate_sha256: String,
}

/// Which base is meant.
#[derive(Debug)]
pub struct Which<'a> {
    roots: &'a Roots,
    pool: PoolRef,
    image: &'a ImageHash,
    size: Resources,
    dir: PathBuf,
}

impl<'a> Which<'a> {
    /// The base of a pool's image for one size.
    #[must_use]
    pub fn of(roots: &'a Roots, pool: PoolRef, image: &'a ImageHash, size: Resources) -> Self {
        let dir = roots.data.join(data::base(&pool, image, &size));
        Self { roots, pool, image, size, dir }
    }

    /// The base of a jail's guest.
    #[must_use]
    pub fn of_jail(roots: &'a Roots, jail: &'a Jail) -> Self {
        Self::of(roots, jail.instance.pool_ref(), &jail.image, jail.resources)
    }

    /// Whether there is one, and whether it can be used on a host that is `present`.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn look(
        &self,
        present: impl FnOnce() -> Result<Present, mvm_core::Error>,
    ) -> Result<ObservedBase, mvm_core::Error> {
        if !durable::exists(&self.dir.join(HEADER))? {
            return Ok(ObservedBase::Absent);
        }
        let present = present()?;
        Ok(match self.fits(&self.dir, &present) {
            Ok(_) => ObservedBase::Fits,
            Err(why) => ObservedBase::Unfit(mvm_core::Error::from(why).to_string()),
        })
    }

    fn fits(&self, dir: &Path, present: &Present) -> Result<(Manifest, [u8; 32]), Error> {
        let (manifest, digest) = Manifest::read(dir)?;
        let header = &manifest.header;
        if (&manifest.pool, &manifest.size, &header.image) != (&self.pool, &self.size, self.image) {
            return Err(Error::integrity(self.dir.join(HEADER), "it is another base's"));
        }
        header.compatible(present).map_err(|mismatch| {
            Error::Conflict(format!("the base of {}: {mismatch}", self.pool))
        })?;
        Ok((manifest, digest))
    }

    /// The right to make it, unless somebody has that already or its build is gone.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn claim(&self) -> Result<Option<File>, mvm_core::Error> {
        let revision = self.roots.data.join(data::revision(&self.pool, self.image));
        if !durable::exists(&revision)? {
            return Ok(None);
        }
        let claim = File::open(&revision).act("open", &revision)?;
        Ok(claim.try_lock().is_ok().then_some(claim))
    }

    /// Makes it of what a VMM wrote of a paused guest, `vmstate` and `mem` in `ram`, and shares it as
    /// `to` before anybody else can have it. Whoever calls holds the claim.
    ///
    /// # Errors
    /// `Refused` when it does not fit, else what the kernel refuses; nothing stays then.
    pub fn store(&self, ram: &Path, header: Header, to: &Path) -> Result<(), mvm_core::Error> {
        let partial = durable::partial(&self.dir);
        let done = self.fill(&partial, ram, header).and_then(|()| {
            share(&partial, to)?;
            durable::remove_dir(&self.dir)?;
            durable::rename(&partial, &self.dir)
        });
        if done.is_err() {
            // The first failure is the one to tell.
            drop((durable::remove_dir(&partial), durable::remove_dir(to)));
        }
        Ok(done?)
    }

    fn fill(&self, dir: &Path, ram: &Path, header: Header) -> Result<(), Error> {
        durable::remove_dir(dir)?;
        durable::create_dirs(dir)?;
        let path = ram.join(MEM);
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        let plain = File::options().read(true).custom_flags(nofollow).open(&path);
        let plain = plain.act("open", &path)?;
        let target = dir.join(MEM);
        let mem = durable::create_fresh(&target, 0o444)?;
        let pages = header.memory.bytes() / PAGE as u64;
        let (sums, digest) = mvm_pager::base::write(&plain, pages, &mem).act("write", &target)?;
        mem.sync_all().act("sync", &target)?;
        durable::write(&dir.join(SUMS), &sums, 0o400)?;
        let path = ram.join(VMSTATE);
        let vmstate = fs::read(&path).act("read", &path)?;
        durable::write(&dir.join(VMSTATE), &vmstate, 0o400)?;
        let manifest = Manifest {
            schema: SCHEMA,
            pool: self.pool.clone(),
            size: self.size,
            header,
            sums_sha256: hex::encode(digest),
            vmstate_sha256: hex::encode(sha256(&vmstate)),
        };
        durable::write(&dir.join(HEADER), &header::encode(&manifest)?, 0o400)
    }

    /// Shares it as `to`; the device state, verified. The memory is not looked at: who maps it trusts
    /// the data directory as for the image that it came from.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Conflict` when it was taken on something else than this host is
    /// now, `Integrity` when it is not what was written.
    pub fn open(&self, present: &Present, to: &Path) -> Result<Vec<u8>, mvm_core::Error> {
        if !durable::exists(&self.dir.join(HEADER))? {
            let what = format!("a base of {} for this size", self.pool);
            return Err(Error::Missing { what, hint: None }.into());
        }
        // Another base may take its place meanwhile: all of it is of the one directory.
        let held = File::open(&self.dir).act("open", &self.dir)?;
        let dir = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        let (manifest, _) = self.fits(&dir, present)?;
        let path = dir.join(VMSTATE);
        let file = File::open(&path).act("open", &path)?;
        let mut vmstate = Vec::new();
        file.take(MAX_VMSTATE + 1).read_to_end(&mut vmstate).act("read", &path)?;
        if hex::encode(sha256(&vmstate)) != manifest.vmstate_sha256 {
            let why = "it is not the device state that was written";
            return Err(Error::integrity(self.dir.join(VMSTATE), why).into());
        }
        share(&dir, to)?;
        Ok(vmstate)
    }

    /// Removes it; who stands on it has links of its own.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(&self) -> Result<(), mvm_core::Error> {
        durable::remove_dir(&durable::partial(&self.dir))?;
        Ok(durable::remove_dir(&self.dir)?)
    }
}

impl Manifest {
    /// Reads `header.json`; also returns its SHA-256, which binds the rest to it.
    fn read(dir: &Path) -> Result<(Self, [u8; 32]), Error> {
        header::read(&dir.join(HEADER), SCHEMA..=SCHEMA)
    }
}

/// Gives a base another place, `to`, by links. What was there goes.
///
/// # Errors
/// What the kernel refuses.
pub fn share(from: &Path, to: &Path) -> Result<(), Error> {
    durable::remove_dir(to)?;
    durable::create_dirs(to)?;
    for name in SHARED {
        fs::hard_link(from.join(name), to.join(name)).act("link", to.join(name))?;
    }
    durable::sync_dir(to)
}

/// Where the memory of a base that is shared as `dir` lies.
#[must_use]
pub fn memory(dir: &Path) -> PathBuf {
    dir.join(MEM)
}

/// A base that somebody stands on.
#[derive(Debug)]
pub struct Shared {
    /// Where it is.
    pub dir: PathBuf,
    /// The memory.
    pub mem: File,
    /// What its pages are; not verified yet.
    pub sums: File,
    /// SHA-256 of `sums`.
    pub digest: [u8; 32],
    /// SHA-256 of its header, which binds all of it.
    pub header: [u8; 32],
    pool: PoolRef,
    image: ImageHash,
    size: Resources,
}

impl Shared {
    /// Opens the base that is shared as `dir`; none when there is none.
    ///
    /// # Errors
    /// `Integrity` when its header makes no sense.
    pub fn open(dir: &Path) -> Result<Option<Self>, Error> {
        if !durable::exists(dir)? {
            return Ok(None);
        }
        let (manifest, header) = Manifest::read(dir)?;
        let Manifest { pool, size, header: Header { image, .. }, sums_sha256, .. } = manifest;
        let mut digest = [0; 32];
        hex::decode_to_slice(&sums_sha256, &mut digest)
            .map_err(|error| Error::integrity(dir.join(HEADER), error.to_string()))?;
        let open = |name: &str| {
            let path = dir.join(name);
            File::open(&path).act("open", &path)
        };
        let (mem, sums) = (open(MEM)?, open(SUMS)?);
        let dir = dir.to_owned();
        Ok(Some(Self { dir, mem, sums, digest, header, pool, image, size }))
    }

    /// Its pages, for a guest of so many.
    ///
    /// # Errors
    /// `Integrity` when `sums` is not what was written.
    pub fn pages(&self, pages: u64) -> Result<Base, Error> {
        let mem = self.mem.try_clone().act("open", self.dir.join(MEM))?;
        Base::open_files(mem, &self.sums, &self.digest, pages)
            .map_err(|error| Error::integrity(&self.dir, error.to_string()))
    }

    /// Completes what is known of the pages that a guest wants at its next wake: one that never woke wants
    /// what others of its pool wanted, and one that did tells them, if nobody has.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn advise(&self, roots: &Roots, wanted: Vec<u32>) -> Result<Vec<u32>, mvm_core::Error> {
        let pool = roots.data.join(data::base(&self.pool, &self.image, &self.size));
        let path = pool.join(WANTED);
        if wanted.is_empty() {
            let Ok(file) = File::open(&path) else { return Ok(wanted) };
            let mut bytes = Vec::new();
            file.take(WANTED_MAX).read_to_end(&mut bytes).act("read", &path)?;
            let (pages, _) = bytes.as_chunks::<4>();
            return Ok(pages.iter().map(|page| u32::from_le_bytes(*page)).collect());
        }
        // Another base may be in its place by now.
        let is_mine = Manifest::read(&pool).is_ok_and(|(_, digest)| digest == self.header);
        if is_mine && !durable::exists(&path)? {
            let bytes: Vec<u8> = wanted.iter().flat_map(|page| page.to_le_bytes()).collect();
            durable::write_unless_there(&path, &bytes, 0o400)?;
        }
        Ok(wanted)
    }
}
