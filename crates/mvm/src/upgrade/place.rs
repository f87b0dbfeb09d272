//! Where versions of this program lie, and which of them runs.
//!
//! ```text
//! DIR/mvm, DIR/mvm-hostd, …  ─▶ .mvm/current/bin/…       what a person or a unit starts
//! DIR/.mvm/current           ─▶ 0.2.0~1                  one link, replaced by one rename
//! DIR/.mvm/former            ─▶ 0.1.0~1                  what `--rollback` brings back
//! DIR/.mvm/0.2.0~1/{bin,share,lib,…}                     a whole release, never changed again
//! DIR/.mvm/part.…                                        one in the making
//! ```
//! A program that runs finds those that belong to it beside itself, in its own version, also after an
//! upgrade. `install.sh` makes the same layout. Programs that lie in `DIR` themselves are taken into a
//! version of their own first, by hard links, so that every step leaves the same programs in force but
//! one. This module refuses to know where versions come from.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mvm_core::error::{Error, ErrorKind};
use tempfile::TempDir;

/// The directory of versions.
const VERSIONS: &str = ".mvm";
/// What a version in the making is called at the beginning.
const PART: &str = "part.";
/// How old what was left by an installer that was killed is before it is removed.
const STALE: Duration = Duration::from_secs(86_400);
/// What is in `DIR`, and the program that each is.
const NAMES: [(&str, &str); 6] = [
    ("mvm", "mvm"),
    ("mvm-agentd", "mvm"),
    ("mvm-hostd", "mvm-hostd"),
    ("mvm-shim", "mvm-shim"),
    ("mvm-pager", "mvm-pager"),
    ("mvm-guest", "mvm-guest"),
];

/// A link to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pointer {
    /// The version in force.
    Current,
    /// The one before it.
    Former,
}

impl Pointer {
    const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Former => "former",
        }
    }
}

/// A version that is there: the name of its directory, which begins with the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept(String);

impl Kept {
    /// Its version.
    pub(super) fn version(&self) -> &str {
        self.0.split_once('~').map_or(self.0.as_str(), |(version, _)| version)
    }
}

/// The directory that programs are started from.
#[derive(Debug, Clone)]
pub(super) struct Place {
    directory: PathBuf,
}

/// The right to change a place, until it is dropped.
pub(super) struct Turn<'a> {
    place: &'a Place,
    _held: File,
}

fn failed(act: &str, path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot {act} {}", path.display());
    if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) {
        return Error::new(ErrorKind::Permission, message).because(error).hint("run it with sudo");
    }
    Error::new(ErrorKind::Failed, message).because(error)
}

/// Makes a directory that others may enter, whatever the caller's mask is.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

impl Place {
    /// The place of a program, by its file.
    ///
    /// # Errors
    /// `Conflict` when it belongs to the Debian package, by the list of `packages`.
    pub(super) fn of(program: &Path, packages: &Path) -> Result<Self, Error> {
        let list = fs::read_to_string(packages.join("mvm.list")).unwrap_or_default();
        if list.lines().any(|line| Path::new(line) == program) {
            let message = format!("{} belongs to the Debian package mvm", program.display());
            return Err(Error::new(ErrorKind::Conflict, message)
                .hint("install the newer package: dpkg -i mvm_VERSION_ARCH.deb"));
        }
        let mut above = program.ancestors().skip(1);
        let beside = above.next().unwrap_or(Path::new("/"));
        // DIR/.mvm/VERSION/bin
        let versions = beside.parent().and_then(Path::parent);
        let directory = versions
            .filter(|path| path.file_name().is_some_and(|name| name == VERSIONS))
            .and_then(Path::parent);
        Ok(Self { directory: directory.unwrap_or(beside).to_owned() })
    }

    /// The directory that programs are started from.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a version lies.
    pub(super) fn path(&self, kept: &Kept) -> PathBuf {
        self.versions().join(&kept.0)
    }

    fn versions(&self) -> PathBuf {
        self.directory.join(VERSIONS)
    }

    /// The version that a link leads to; none when there is none.
    pub(super) fn kept(&self, pointer: Pointer) -> Option<Kept> {
        let name = fs::read_link(self.versions().join(pointer.name())).ok()?.into_os_string();
        let kept = Kept(name.into_string().ok().filter(|name| !name.contains('/'))?);
        self.path(&kept).join("bin/mvm").is_file().then_some(kept)
    }

    /// Takes the right to change it.
    ///
    /// # Errors
    /// `Conflict` when somebody has it, `Permission` when the directory is not ours to change.
    pub(super) fn turn(&self) -> Result<Turn<'_>, Error> {
        let versions = self.versions();
        let told = |error: &io::Error| failed("change", &versions, error);
        make(&versions).map_err(|error| told(&error))?;
        let held = File::open(&versions).map_err(|error| told(&error))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Conflict, "another upgrade is at work"));
            }
            Err(TryLockError::Error(error)) => return Err(told(&error)),
        }
        Ok(Turn { place: self, _held: held })
    }
}

impl Turn<'_> {
    /// A directory for a version in the making, removed unless it is taken.
    pub(super) fn part(&self) -> Result<TempDir, Error> {
        let versions = self.place.versions();
        tempfile::Builder::new()
            .prefix(PART)
            .tempdir_in(&versions)
            .map_err(|error| failed("make a directory in", &versions, &error))
    }

    /// Takes the programs that lie in the directory itself into a version of their own.
    pub(super) fn ensure_adopted(&self, version: &str) -> Result<(), Error> {
        if self.place.kept(Pointer::Current).is_none() {
            let part = self.part()?;
            let (tree, bin) = (part.path().join("tree"), part.path().join("tree/bin"));
            let made = make(&tree).and_then(|()| make(&bin));
            made.map_err(|error| failed("make", &bin, &error))?;
            for (name, program) in NAMES.iter().filter(|(name, program)| name == program) {
                let from = self.place.directory.join(name);
                let to = bin.join(program);
                if from.is_file() {
                    fs::hard_link(&from, &to)
                        .or_else(|_| fs::copy(&from, &to).map(drop))
                        .map_err(|error| failed("keep", &from, &error))?;
                }
            }
            let kept = self.take(&tree, version)?;
            self.point(Pointer::Current, &kept)?;
        }
        self.ensure_links()
    }

    /// Gives a finished tree its name.
    pub(super) fn take(&self, tree: &Path, version: &str) -> Result<Kept, Error> {
        let mut names = (1_u32..).map(|number| Kept(format!("{version}~{number}")));
        let free = names.find(|kept| !self.place.path(kept).exists());
        let kept = free.ok_or_else(|| Error::new(ErrorKind::Failed, "no name is left"))?;
        let to = self.place.path(&kept);
        fs::rename(tree, &to).map_err(|error| failed("make", &to, &error))?;
        Ok(kept)
    }

    /// Brings a version into force; the one that was is the former one then, and others are removed.
    pub(super) fn switch(&self, to: &Kept) -> Result<(), Error> {
        let before = self.place.kept(Pointer::Current).filter(|before| before != to);
        if let Some(before) = &before
            && self.place.kept(Pointer::Former).as_ref() != Some(to)
        {
            self.point(Pointer::Former, before)?;
        }
        self.point(Pointer::Current, to)?;
        if let Some(before) = &before {
            self.point(Pointer::Former, before)?;
        }
        self.ensure_links()?;
        self.sweep();
        Ok(())
    }

    /// Replaces a link, durably.
    fn point(&self, pointer: Pointer, kept: &Kept) -> Result<(), Error> {
        self.link(&self.place.versions().join(pointer.name()), Path::new(&kept.0))
    }

    fn link(&self, path: &Path, target: &Path) -> Result<(), Error> {
        let told = |error: io::Error| failed("replace", path, &error);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let fresh = self.place.versions().join(format!("{PART}{name}"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            Ok(()) | Err(_) => {}
        }
        symlink(target, &fresh).map_err(told)?;
        fs::rename(&fresh, path).map_err(told)?;
        let directory = path.parent().unwrap_or(path);
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(told)
    }

    /// What a person starts leads to the version in force.
    fn ensure_links(&self) -> Result<(), Error> {
        for (name, program) in NAMES {
            let path = self.place.directory.join(name);
            let target =
                Path::new(VERSIONS).join(Pointer::Current.name()).join("bin").join(program);
            if fs::read_link(&path).ok().as_ref() != Some(&target) {
                self.link(&path, &target)?;
            }
        }
        Ok(())
    }

    /// Removes versions that nothing leads to, and what killed installers left; what stays for now is
    /// met again by the next upgrade.
    fn sweep(&self) {
        let held = [Pointer::Current, Pointer::Former].map(|pointer| self.place.kept(pointer));
        let entries = fs::read_dir(self.place.versions()).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let age = entry.metadata().and_then(|data| data.modified()).ok();
            let age = age.and_then(|at| SystemTime::now().duration_since(at).ok());
            let is_free = if name.starts_with(PART) {
                age.is_some_and(|age| age > STALE)
            } else {
                name.contains('~') && !held.contains(&Some(Kept(name)))
            };
            if is_free && let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an old version stays");
            }
        }
    }
}
