//! Debian packages into the cache: the lock first, then the signed index.
//!
//! The other half of `Fetcher`: it chooses which versions are wanted and lets `apt` bring them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::apt::{Apt, Lists};
use super::{AptError, Attempts, FetchError, Fetcher, Pinned, Resolution, SourceFailure};
use crate::catalogue::{Arch, LockedPackage, PackageLock, PackageSet};
use crate::hash::ContentHash;
use crate::progress::{OnProgress, Progress, Step};

/// The package lists to try, in this order, and what each is called.
const LISTS: [(Lists, &str); 2] =
    [(Lists::System, "deb: (the machine's lists)"), (Lists::Private, "deb: (fresh lists)")];

/// Debian packages in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFiles {
    /// What was chosen.
    pub resolution: Resolution,
    /// The user space's files, in the order of `resolution.packages`.
    pub packages: Vec<PathBuf>,
    /// The kernel's file, when it was asked for.
    pub kernel: Option<PathBuf>,
}

/// Whether the kernel's package is wanted as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithKernel {
    /// Fetch it.
    Yes,
    /// Leave it.
    No,
}

impl Fetcher {
    /// Gets the packages of a set: those of the lock where the signed index still has them, else
    /// the current ones, each verified against the digest in the lock or the index.
    ///
    /// With a mirror set, the lock holds as it is and apt is not used; likewise when every
    /// package of the lock is in the cache.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] with apt's or the mirror's reason.
    pub fn packages(
        &self,
        set: &PackageSet,
        lock: &PackageLock,
        kernel: WithKernel,
        on: OnProgress<'_>,
    ) -> Result<PackageFiles, FetchError> {
        let _lock = self.lock()?;
        let locked = Resolution {
            packages: lock.packages.clone(),
            kernel: lock.kernel.clone(),
            notes: Vec::new(),
        };
        let is_complete = wanted(&locked, kernel).all(|package| self.cached(package.sha256));
        if self.config.mirror.is_some() || is_complete {
            for package in wanted(&locked, kernel) {
                let pinned = Pinned { size: package.size, sha256: package.sha256 };
                self.file_locked(&package.name, pinned, &[], on)?;
            }
            return Ok(self.package_files(locked, kernel));
        }
        let mut attempts = Attempts::default();
        for (lists, label) in LISTS {
            match self.by_apt(lists, set, lock, kernel, on) {
                Ok(resolution) => return Ok(self.package_files(resolution, kernel)),
                Err(failure) => attempts.0.push((label.to_owned(), failure)),
            }
        }
        Err(FetchError::NoSource { name: set.name.clone(), attempts })
    }

    /// Gets the current versions of packages and of all that they depend on, in alphabetical order,
    /// each verified against the digest in the signed index.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] with apt's reason.
    pub fn newest(
        &self,
        arch: Arch,
        names: &[String],
        on: OnProgress<'_>,
    ) -> Result<Vec<(LockedPackage, PathBuf)>, FetchError> {
        let _lock = self.lock()?;
        let mut attempts = Attempts::default();
        for (lists, label) in LISTS {
            let apt = self.apt(lists);
            let tried = (|| {
                on(Progress { step: Step::Resolve, name: "packages", done: 0, total: None });
                self.update(&apt, on)?;
                let packages = apt.closure(arch, names)?;
                self.download(&apt, arch, "packages", &packages, on)?;
                Ok(packages)
            })();
            match tried {
                Ok(packages) => {
                    let place = |package: LockedPackage| {
                        let path = self.blob(package.sha256);
                        (package, path)
                    };
                    return Ok(packages.into_iter().map(place).collect());
                }
                Err(failure) => attempts.0.push((label.to_owned(), failure)),
            }
        }
        Err(FetchError::NoSource { name: names.join(", "), attempts })
    }

    fn apt(&self, lists: Lists) -> Apt<'_> {
        Apt {
            tools: &self.config.tools,
            lists,
            directory: self.apt_directory.as_path(),
            deadline: self.config.limits.whole,
        }
    }

    fn update(&self, apt: &Apt<'_>, on: OnProgress<'_>) -> Result<(), AptError> {
        apt.update(&|done| {
            on(Progress { step: Step::Resolve, name: "package lists", done, total: None });
        })
    }

    /// Brings those of the packages into the cache that are not there.
    fn download(
        &self,
        apt: &Apt<'_>,
        arch: Arch,
        name: &str,
        packages: &[LockedPackage],
        on: OnProgress<'_>,
    ) -> Result<(), SourceFailure> {
        let missing: Vec<LockedPackage> =
            packages.iter().filter(|package| !self.cached(package.sha256)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let report = |done, total| on(Progress { step: Step::Fetch, name, done, total });
        let directory = &self.apt_directory;
        let scratch = tempfile::tempdir_in(directory)
            .map_err(|source| SourceFailure::File { path: directory.clone(), source })?;
        let total = missing.iter().map(|package| package.size).sum();
        apt.download(arch, &missing, scratch.path(), &|done| report(done, Some(total)))?;
        self.adopt(scratch.path(), &missing)?;
        report(total, Some(total));
        Ok(())
    }

    fn by_apt(
        &self,
        lists: Lists,
        set: &PackageSet,
        lock: &PackageLock,
        kernel: WithKernel,
        on: OnProgress<'_>,
    ) -> Result<Resolution, SourceFailure> {
        let apt = self.apt(lists);
        on(Progress { step: Step::Resolve, name: &set.name, done: 0, total: None });
        self.update(&apt, on)?;
        let resolution = apt.resolve(set, lock, kernel)?;
        let packages: Vec<LockedPackage> = wanted(&resolution, kernel).cloned().collect();
        self.download(&apt, lock.arch, &set.name, &packages, on)?;
        Ok(resolution)
    }

    /// Takes the files with the wanted digests out of a directory that apt wrote.
    fn adopt(&self, directory: &Path, packages: &[LockedPackage]) -> Result<(), SourceFailure> {
        let wrap = |source| SourceFailure::File { path: directory.to_owned(), source };
        for entry in fs::read_dir(directory).map_err(wrap)? {
            let path = entry.map_err(wrap)?.path();
            if !path.is_file() {
                continue;
            }
            let (hash, _) = ContentHash::of_file(&path).map_err(wrap)?;
            if packages.iter().any(|package| package.sha256 == hash) {
                File::open(&path).and_then(|file| file.sync_all()).map_err(wrap)?;
                fs::rename(&path, self.blob(hash)).map_err(wrap)?;
            }
        }
        match packages.iter().find(|package| !self.blob(package.sha256).is_file()) {
            None => Ok(()),
            Some(package) => Err(AptError::NotDelivered { package: package.name.clone() }.into()),
        }
    }

    fn package_files(&self, resolution: Resolution, kernel: WithKernel) -> PackageFiles {
        let packages = resolution.packages.iter().map(|p| self.blob(p.sha256)).collect();
        let kernel = (kernel == WithKernel::Yes).then(|| self.blob(resolution.kernel.sha256));
        PackageFiles { resolution, packages, kernel }
    }

    /// A single pinned package, for assets that are one.
    pub(super) fn one_package(
        &self,
        wanted: &LockedPackage,
        part: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), SourceFailure> {
        let directory = &self.apt_directory;
        let scratch = tempfile::tempdir_in(directory)
            .map_err(|source| SourceFailure::File { path: directory.clone(), source })?;
        let apt = self.apt(Lists::System);
        let arch = Arch::native().unwrap_or(Arch::X86_64);
        let packages = std::slice::from_ref(wanted);
        apt.download(arch, packages, scratch.path(), tick)?;
        self.adopt(scratch.path(), packages)?;
        let path = self.blob(wanted.sha256);
        fs::rename(&path, part).map_err(|source| SourceFailure::File { path, source })
    }
}

fn wanted(resolution: &Resolution, kernel: WithKernel) -> impl Iterator<Item = &LockedPackage> {
    let kernel = (kernel == WithKernel::Yes).then_some(&resolution.kernel);
    resolution.packages.iter().chain(kernel)
}
