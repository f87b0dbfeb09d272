//! An image as one file: a zstd frame with a tar of its manifest, kernel, root and initramfs.
//!
//! ```text
//! image of the store ── write ──► manifest.json vmlinux rootfs.squashfs [initrd.img] ── tar, zstd ──► FILE
//! FILE ── open ──► manifest ── into ──► every byte verified ──► image of the store, or nothing
//! ```
//!
//! The same image makes the same bytes. Who made a file is not known, so its image never gets the key of a
//! recipe, which would let it stand for what is built here: its key is the digest of all that it says and
//! holds, whatever key it claims. What a file may be named is not known here either.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::assemble::PATIENCE;
use crate::catalogue::Arch;
use crate::failed::FileError;
use crate::hash::ContentHash;
use crate::manifest::{ImageFile, MANIFEST_SCHEMA, Manifest};
use crate::recipe::Key;
use crate::store::{Image, ImageStore, StoreError};
use crate::untar::{self, UntarError, What};

/// The first bytes of such a file (RFC 8878 §3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Fast: an image is mostly its root, and is read more often than it is stored.
const LEVEL: i32 = 1;
const MANIFEST: &str = "manifest.json";
/// The files of an image in their order, and the most that each may hold, in bytes.
const FILES: [(&str, u64); 3] =
    [("vmlinux", 512 << 20), ("rootfs.squashfs", 12 << 30), ("initrd.img", 512 << 20)];
/// The largest manifest, in bytes.
const MANIFEST_MAX: u64 = 4 << 20;
/// The longest kernel command line of an image, in bytes.
const CMDLINE_MAX: usize = 1024;
/// A block of a tar; two empty ones are its end.
const BLOCK: u64 = 512;

/// Why a file is no image, or could not become one.
#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is something else.
    #[error("{0} is no image in one file")]
    NoImage(PathBuf),
    /// Its manifest can't be read.
    #[error("cannot read the manifest in it")]
    Manifest(#[source] serde_json::Error),
    /// Its manifest asks for what no image has.
    #[error("its manifest is refused: {0}")]
    Refused(String),
    /// It is for other machines.
    #[error("it is for {}, and this machine is not", .0.as_str())]
    Arch(Arch),
    /// Bytes are missing, altered, or too many.
    #[error("it is damaged or was altered: {0}")]
    Damaged(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its digest.
    pub sha256: ContentHash,
    /// Its length in bytes.
    pub size: u64,
}

/// Whether a file begins like an image in one file; false of what can't be read.
#[must_use]
pub fn is_one(path: &Path) -> bool {
    let mut start = [0u8; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == MAGIC
}

/// Writes an image into one file, in place of what has that name; its bytes are verified on the way.
///
/// # Errors
/// [`StoreError::Damaged`] when the image is not what its manifest says; when the disk refuses.
pub fn write(image: &Image, to: &Path) -> Result<Written, ParcelError> {
    let wrap = |source| file("write", to)(source);
    let directory = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut scratch = NamedTempFile::new_in(directory).map_err(wrap)?;
    let mut encoder = zstd::stream::write::Encoder::new(scratch.as_file_mut(), LEVEL)
        .and_then(|mut encoder| encoder.include_checksum(true).map(|()| encoder))
        .map_err(wrap)?;
    {
        let mut tar = tar::Builder::new(&mut encoder);
        let text = text_of(&image.manifest)?;
        append(&mut tar, MANIFEST, text.len() as u64, text.as_bytes()).map_err(wrap)?;
        for part in parts(&image.manifest) {
            let path = image.directory.join(&part.file);
            let damaged = || StoreError::Damaged { path: path.clone() };
            let opened = File::open(&path).map_err(|_| damaged())?;
            let mut hashed = Hashed { stream: opened.take(part.size), hash: Sha256::new() };
            append(&mut tar, &part.file, part.size, &mut hashed).map_err(wrap)?;
            if ContentHash::from_hasher(hashed.hash) != part.sha256 {
                return Err(damaged().into());
            }
        }
        tar.finish().map_err(wrap)?;
    }
    encoder.finish().map(drop).map_err(wrap)?;
    let made = scratch.as_file();
    made.set_permissions(Permissions::from_mode(0o644))
        .and_then(|()| made.sync_all())
        .map_err(wrap)?;
    let (sha256, size) = ContentHash::of_file(scratch.path()).map_err(wrap)?;
    scratch.persist(to).map_err(|error| wrap(error.error))?;
    Ok(Written { sha256, size })
}

/// A file whose manifest was read.
#[derive(Debug)]
pub struct Parcel {
    path: PathBuf,
    file: File,
    manifest: Manifest,
}

impl Parcel {
    /// Opens a file and reads its manifest, and nothing else yet.
    ///
    /// # Errors
    /// When it is no image in one file, or none for this program and `arch`.
    pub fn open(path: &Path, arch: Arch) -> Result<Self, ParcelError> {
        let wrap = |source| file("read", path)(source);
        let opened = File::open(path).map_err(wrap)?;
        if !opened.metadata().map_err(wrap)?.is_file() || !is_one(path) {
            return Err(ParcelError::NoImage(path.to_owned()));
        }
        let mut bytes = None;
        let walked = walk(&opened, path, &mut |name, length, stream| {
            if name != MANIFEST || length > MANIFEST_MAX {
                return Err(ParcelError::NoImage(path.to_owned()));
            }
            let mut read = Vec::new();
            stream.read_to_end(&mut read).map_err(|error| damaged(&error))?;
            bytes = Some(read);
            Ok(Walk::Stop)
        });
        let Some(bytes) = bytes else {
            return Err(walked.err().unwrap_or_else(|| ParcelError::NoImage(path.to_owned())));
        };
        let manifest = serde_json::from_slice(&bytes).map_err(ParcelError::Manifest)?;
        check(&manifest, arch)?;
        let own = Manifest { hash: key_of(&manifest)?, ..manifest };
        Ok(Self { path: path.to_owned(), file: opened, manifest: own })
    }

    /// How much its files hold, in bytes, as its manifest says; no more than that is written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        parts(&self.manifest).iter().map(|part| part.size).sum()
    }

    /// The generation of the guest protocol that its agent speaks.
    #[must_use]
    pub const fn protocol(&self) -> u32 {
        self.manifest.agent.protocol
    }

    /// Verifies the whole file, and puts its image into a store that does not have it whole.
    ///
    /// # Errors
    /// [`ParcelError::Damaged`] when a byte is missing, altered or too much; then the store is as it was.
    pub fn into_store(self, store: &ImageStore) -> Result<Image, ParcelError> {
        let lock = store.lock(PATIENCE)?;
        let scratch = store.scratch(&lock)?;
        let parts = parts(&self.manifest);
        let mut next = parts.iter();
        let mut is_first = true;
        walk(&self.file, &self.path, &mut |name, length, stream| {
            if std::mem::take(&mut is_first) {
                self.same_manifest(name, stream)?;
                return Ok(Walk::On);
            }
            let Some(part) = next.next().filter(|part| part.file == name && part.size == length)
            else {
                return Err(ParcelError::Damaged(format!("{name} is not what comes next")));
            };
            let to = scratch.path().join(&part.file);
            let wrap = |source| file("write", &to)(source);
            let mut made = File::create(&to).map_err(wrap)?;
            let mut hashed = Hashed { stream, hash: Sha256::new() };
            copy(&mut hashed, &mut made, &to)?;
            made.set_permissions(Permissions::from_mode(0o644)).map_err(wrap)?;
            made.sync_all().map_err(wrap)?;
            if ContentHash::from_hasher(hashed.hash) != part.sha256 {
                return Err(ParcelError::Damaged(format!("{name} has another digest")));
            }
            Ok(Walk::On)
        })?;
        if let Some(part) = next.next() {
            return Err(ParcelError::Damaged(format!("{} is missing", part.file)));
        }
        match store.get(self.manifest.hash) {
            Ok(image) if image.verify().is_ok() => Ok(image),
            Ok(_) | Err(_) => Ok(store.publish(scratch, &self.manifest, &lock)?),
        }
    }

    /// The file may be another one than the one that was opened, if somebody writes to it.
    fn same_manifest(&self, name: &str, stream: &mut dyn Read) -> Result<(), ParcelError> {
        let mut bytes = Vec::new();
        stream.take(MANIFEST_MAX).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        let found: Manifest = serde_json::from_slice(&bytes).map_err(ParcelError::Manifest)?;
        if name == MANIFEST && (Manifest { hash: self.manifest.hash, ..found }) == self.manifest {
            return Ok(());
        }
        Err(ParcelError::Damaged("its manifest changed meanwhile".to_owned()))
    }
}

/// The files of an image, in the order in which they are written.
fn parts(manifest: &Manifest) -> Vec<ImageFile> {
    let Manifest { kernel, root, initrd, .. } = manifest;
    let of = |file: &String, size, sha256| ImageFile { file: file.clone(), size, sha256 };
    let first =
        [of(&kernel.file, kernel.size, kernel.sha256), of(&root.file, root.size, root.sha256)];
    first.into_iter().chain(initrd.clone()).collect()
}

/// Refuses a manifest of what this program would never write.
fn check(manifest: &Manifest, arch: Arch) -> Result<(), ParcelError> {
    let refused = |what: String| Err(ParcelError::Refused(what));
    if manifest.schema != MANIFEST_SCHEMA {
        return refused(format!("it has schema {}, and this program reads 1", manifest.schema));
    }
    if manifest.arch != arch {
        return Err(ParcelError::Arch(manifest.arch));
    }
    for (part, (name, most)) in parts(manifest).iter().zip(FILES) {
        if part.file != name {
            return refused(format!("{:?} stands for {name}", part.file));
        }
        if part.size > most {
            return refused(format!("{name} has {} bytes, and {most} are the most", part.size));
        }
    }
    let words = &manifest.kernel.cmdline;
    let is_word = |word: &String| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
    if !words.iter().all(is_word) || words.iter().map(String::len).sum::<usize>() > CMDLINE_MAX {
        return refused("its kernel command line makes no sense".to_owned());
    }
    if !manifest.name.bytes().all(|b| b.is_ascii_graphic()) || manifest.name.len() > 128 {
        return refused("its name makes no sense".to_owned());
    }
    Ok(())
}

/// The key of an image that came in a file: all of its manifest but the key that it claims.
fn key_of(manifest: &Manifest) -> Result<ContentHash, ParcelError> {
    let bare = Manifest { hash: ContentHash::of(b""), ..manifest.clone() };
    let mut key = Key::new("mvm image file");
    key.text(&text_of(&bare)?);
    Ok(key.finish())
}

fn text_of(manifest: &Manifest) -> Result<String, ParcelError> {
    serde_json::to_string_pretty(manifest).map_err(ParcelError::Manifest)
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ParcelError {
    move |source| FileError::new(act, path, source).into()
}

fn damaged(error: &dyn std::error::Error) -> ParcelError {
    ParcelError::Damaged(error.to_string())
}

/// Adds a file that is nobody's and of no time.
fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    bytes: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    tar.append(&header, bytes)
}

/// Copies a part into a file; what the stream says wrong is told from what the disk refuses.
fn copy(from: &mut dyn Read, to: &mut File, path: &Path) -> Result<(), ParcelError> {
    let mut buffer = vec![0u8; 128 << 10];
    loop {
        let read = from.read(&mut buffer).map_err(|error| damaged(&error))?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).map_err(file("write", path))?;
    }
}

/// Whether the next entry is wanted.
enum Walk {
    On,
    Stop,
}

/// What is done with an entry: its name, its length and its content.
type Visit<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> Result<Walk, ParcelError> + 'a;

/// Looks at the entries of a file, one after the other, by name, length and content. Once all were wanted,
/// there must be nothing in the file that is none of them.
fn walk(mut opened: &File, path: &Path, visit: &mut Visit<'_>) -> Result<(), ParcelError> {
    let wrap = |source| file("read", path)(source);
    opened.seek(SeekFrom::Start(0)).map_err(wrap)?;
    let packed = BufReader::with_capacity(128 << 10, opened);
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(wrap)?;
    let mut stream = Counted { stream: decoder.single_frame(), count: 0 };
    let (mut ended, mut expected) = (None, 2 * BLOCK);
    let walked = untar::each(&mut stream, &mut |found| {
        let What::File { length, bytes } = found.what else {
            return Err(UntarError::Kind(found.path));
        };
        expected += BLOCK + length.div_ceil(BLOCK) * BLOCK;
        match visit(&found.path.to_string(), length, bytes) {
            Ok(Walk::On) => return Ok(()),
            Ok(Walk::Stop) => ended = Some(Ok(())),
            Err(error) => ended = Some(Err(error)),
        }
        Err(io::Error::from(io::ErrorKind::Interrupted).into())
    });
    if let Some(ended) = ended {
        return ended;
    }
    match walked {
        Ok(()) => {}
        Err(UntarError::Read(error)) => return Err(damaged(&error)),
        Err(error) => return Err(ParcelError::Refused(error.to_string())),
    }
    // One byte more than the second of the empty blocks, so that the frame is read to its checksum.
    let rest = io::copy(&mut (&mut stream).take(BLOCK + 1), &mut io::sink());
    rest.map_err(|error| damaged(&error))?;
    let mut packed = stream.stream.finish();
    let is_at_end = packed.fill_buf().map_err(wrap)?.is_empty();
    if stream.count == expected && is_at_end {
        return Ok(());
    }
    Err(ParcelError::Damaged("it has bytes that belong to none of its files".to_owned()))
}

/// A stream, and how much of it was read.
struct Counted<R> {
    stream: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(into)?;
        self.count += read as u64;
        Ok(read)
    }
}

/// A stream, and the digest of what was read of it.
struct Hashed<R> {
    stream: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(into)?;
        self.hash.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
