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
        for (lists, label) in
            [(Lists::System, "deb: (the machine's lists)"), (Lists::Private, "deb: (fresh lists)")]
        {
            match self.by_apt(lists, set, lock, kernel, on) {
                Ok(resolution) => return Ok(self.package_files(resolution, kernel)),
                Err(failure) => attempts.0.push((label.to_owned(), failure)),
            }
        }
        Err(FetchError::NoSource { name: set.name.clone(), attempts })
    }

    fn by_apt(
        &self,
        lists: Lists,
        set: &PackageSet,
        lock: &PackageLock,
        kernel: WithKernel,
        on: OnProgress<'_>,
    ) -> Result<Resolution, SourceFailure> {
        let directory = self.config.cache.join("apt");
        let file = |source| SourceFailure::File { path: directory.clone(), source };
        let apt = Apt {
            tools: &self.config.tools,
            lists,
            directory: &directory,
            deadline: self.config.limits.whole,
        };
        let report = |step, name, done, total| on(Progress { step, name, done, total });
        report(Step::Resolve, &set.name, 0, None);
        apt.update(&|done| report(Step::Resolve, "package lists", done, None))?;
        let resolution = apt.resolve(set, lock, kernel)?;
        let missing: Vec<LockedPackage> = wanted(&resolution, kernel)
            .filter(|package| !self.cached(package.sha256))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(resolution);
        }
        let scratch = tempfile::tempdir_in(&directory).map_err(file)?;
        let total = missing.iter().map(|package| package.size).sum();
        apt.download(lock.arch, &missing, scratch.path(), &|done| {
            report(Step::Fetch, &set.name, done, Some(total));
        })?;
        self.adopt(scratch.path(), &missing)?;
        report(Step::Fetch, &set.name, total, Some(total));
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
        let directory = self.config.cache.join("apt");
        let scratch = tempfile::tempdir_in(&directory)
            .map_err(|source| SourceFailure::File { path: directory.clone(), source })?;
        let apt = Apt {
            tools: &self.config.tools,
            lists: Lists::System,
            directory: &directory,
            deadline: self.config.limits.whole,
        };
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
