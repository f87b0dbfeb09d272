//! What one machine gets from its caller: keys, our programs, Firecracker and the default image.
//!
//! It is a tar archive: on a second, read-only disk that is there only at a start that needs it, or
//! over the wire into a running machine. The stamps of the programs are its last entry, so a machine
//! that has them has everything before them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use mvm_core::error::{Error, ErrorKind};

use crate::{
    forward::PROGRAMS_FILE,
    provider::{files::fault, programs},
};

/// What goes into a seed.
pub(in crate::provider) struct Seed {
    /// Our programs.
    pub(in crate::provider) programs: BTreeMap<&'static str, PathBuf>,
    /// What only a new machine gets.
    pub(in crate::provider) first: Option<First>,
}

/// What a machine gets once.
pub(in crate::provider) struct First {
    /// The directory with the keys.
    pub(super) keys: PathBuf,
    /// The data directory, and where Firecracker lies below it.
    pub(super) firecracker: (PathBuf, PathBuf),
    /// The image store's directory with the default image, and that image's hash.
    pub(super) image: (PathBuf, String),
}

impl Seed {
    /// Writes the archive to a file that a machine gets as a disk.
    pub(super) fn write_disk(&self, path: &Path) -> Result<(), Error> {
        let mut file = File::create(path).map_err(fault("create", path))?;
        self.write(&mut file).map_err(fault("write", path))?;
        let length = file.metadata().map_err(fault("measure", path))?.len();
        let whole = length.next_multiple_of(1 << 20);
        file.set_len(whole).and_then(|()| file.sync_all()).map_err(fault("write", path))
    }

    /// Writes the archive.
    pub(in crate::provider) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(to);
        archive.mode(tar::HeaderMode::Deterministic);
        archive.follow_symlinks(false);
        if let Some(first) = &self.first {
            first.append(&mut archive)?;
        }
        for (name, path) in &self.programs {
            append(&mut archive, path, &format!("{}/{name}", programs::DIRECTORY), 0o755)?;
        }
        let stamps = programs::stamps(&self.programs).map_err(io::Error::other)?;
        let text = serde_json::to_vec(&stamps)?;
        put(&mut archive, PROGRAMS_FILE.trim_start_matches('/'), &text, 0o644)?;
        archive.into_inner()?.flush()
    }
}

impl First {
    fn append<W: Write>(&self, archive: &mut tar::Builder<W>) -> io::Result<()> {
        directory(archive, "root/.ssh", 0o700)?;
        let keys = |name: &str| self.keys.join(name);
        append(archive, &keys("key.pub"), "root/.ssh/authorized_keys", 0o600)?;
        append(archive, &keys("host_key"), "etc/ssh/mvm_host_key", 0o600)?;
        append(archive, &keys("host_key.pub"), "etc/ssh/mvm_host_key.pub", 0o644)?;
        let data = "var/lib/mvm";
        directory(archive, data, 0o700)?;
        let (from, name) = &self.firecracker;
        for program in ["firecracker", "jailer"] {
            let program = name.join(program);
            let to = format!("{data}/{}", program.display());
            append(archive, &from.join(&program), &to, 0o755)?;
        }
        let (store, hash) = &self.image;
        archive.append_dir_all(format!("{data}/images/{hash}"), store.join(hash))?;
        let reference = "refs/default";
        archive.append_path_with_name(store.join(reference), format!("{data}/images/{reference}"))
    }
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    from: &Path,
    to: &str,
    mode: u32,
) -> io::Result<()> {
    let mut file = File::open(from)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(file.metadata()?.len());
    header.set_mode(mode);
    archive.append_data(&mut header, to, &mut file)
}

fn put<W: Write>(
    archive: &mut tar::Builder<W>,
    to: &str,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, to, bytes)
}

fn directory<W: Write>(archive: &mut tar::Builder<W>, to: &str, mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    archive.append_data(&mut header, format!("{to}/"), io::empty())
}

/// The hash that the name `default` stands for in an image store.
pub(super) fn default_image(store: &Path) -> Result<String, Error> {
    let path = store.join("refs/default");
    let text = match fs::read_link(&path) {
        Ok(target) => target.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        Err(_) => fs::read_to_string(&path).map_err(fault("read", &path))?.trim().to_owned(),
    };
    if text.is_empty() || text.contains('/') {
        return Err(Error::new(ErrorKind::Integrity, "the default image has no hash"));
    }
    Ok(text)
}
