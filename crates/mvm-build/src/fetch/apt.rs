//! Debian packages through the configured apt: read the signed index, download, never install.
//!
//! Which mirrors, which keys and which proxies are apt's own business; that an unsigned index is
//! refused is not, and is said on every call. Maintainer scripts are never run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::WithKernel;
use super::tool::{Run, ToolError, Tools};
use crate::catalogue::{Arch, LockedPackage, PackageLock, PackageSet};

/// Why apt brought no packages.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// The program failed.
    #[error("cannot {act}")]
    Tool {
        /// What was tried.
        act: &'static str,
        /// The program's reason.
        #[source]
        source: ToolError,
    },
    /// The index doesn't know a package.
    #[error("the package index has no {package} for {arch}; run `apt-get update`")]
    NotInIndex {
        /// The package.
        package: String,
        /// Debian's name of the architecture.
        arch: &'static str,
    },
    /// An entry without a digest or a size can't be verified.
    #[error("the package index gives no SHA-256 or size for {package}")]
    NoDigest {
        /// The package.
        package: String,
    },
    /// apt doesn't find a way to have all of the packages at once.
    #[error("apt cannot have {packages} with all that they depend on")]
    NoClosure {
        /// The packages asked for.
        packages: String,
        /// apt's reason.
        #[source]
        source: Box<AptError>,
    },
    /// The kernel's family package depends on no kernel.
    #[error("{package} depends on no linux-image package")]
    NoKernel {
        /// The family package.
        package: String,
    },
    /// apt said yes and left no file with the digest of its index.
    #[error("apt left no file for {package} with the digest of its index")]
    NotDelivered {
        /// The package.
        package: String,
    },
    /// A private directory can't be used.
    #[error("cannot use {directory} for apt")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The packages to take, exactly, and what differs from the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The user space's packages, in the order of the lock.
    pub packages: Vec<LockedPackage>,
    /// The kernel's package.
    pub kernel: LockedPackage,
    /// A sentence per package that was replaced by its current version.
    pub notes: Vec<String>,
}

/// Which package lists are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// The machine's own.
    System,
    /// Lists of our own, fetched and verified by apt from the machine's configured sources: for
    /// a machine whose own are missing or stale.
    Private,
}

/// One version of a package in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    package: LockedPackage,
    depends: String,
}

/// apt with one set of package lists.
pub(crate) struct Apt<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) lists: Lists,
    /// Where private lists and downloads live.
    pub(crate) directory: &'a Path,
    pub(crate) deadline: Duration,
}

impl Apt<'_> {
    fn run(
        &self,
        act: &'static str,
        program: Option<&Path>,
        arguments: Vec<OsString>,
        directory: &Path,
        tick: &dyn Fn(),
    ) -> Result<String, AptError> {
        let tool = |source| AptError::Tool { act, source };
        let mut all = self.options();
        all.extend(arguments);
        let run = Run {
            program: program.ok_or_else(|| tool(ToolError::Missing("apt-get or apt-cache")))?,
            arguments: all,
            environment: &self.tools.environment,
            directory,
            deadline: self.deadline,
        };
        let output = run.output(tick).map_err(tool)?;
        let is_question = program == self.tools.apt_cache.as_deref();
        if output.status.success() || is_question {
            return Ok(output.stdout);
        }
        Err(tool(run.failed(output)))
    }

    fn options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> = Vec::new();
        let mut set = |text: OsString| options.extend(["-o".into(), text]);
        set("APT::Get::AllowUnauthenticated=false".into());
        set("Acquire::AllowInsecureRepositories=false".into());
        if self.lists == Lists::Private {
            for (key, name) in [
                ("Dir::State::lists=", "lists"),
                ("Dir::Cache::archives=", "archives"),
                ("Dir::Cache::pkgcache=", ""),
                ("Dir::Cache::srcpkgcache=", ""),
            ] {
                let mut text = OsString::from(key);
                if !name.is_empty() {
                    text.push(self.directory.join(name));
                }
                set(text);
            }
            set("APT::Sandbox::User=".into());
        }
        options
    }

    /// Fetches private lists; the system's own are never touched.
    pub(crate) fn update(&self, tick: &dyn Fn(u64)) -> Result<(), AptError> {
        if self.lists == Lists::System {
            return Ok(());
        }
        for name in ["lists/partial", "archives/partial"] {
            let directory = self.directory.join(name);
            fs::create_dir_all(&directory)
                .map_err(|source| AptError::Directory { directory, source })?;
        }
        let arguments = vec!["-qq".into(), "update".into()];
        let lists = self.directory.join("lists");
        let program = self.tools.apt_get.as_deref();
        self.run("fetch package lists", program, arguments, self.directory, &|| {
            tick(super::bytes_in(&lists));
        })?;
        Ok(())
    }

    fn show(
        &self,
        arch: Arch,
        names: &[String],
        extra: &[&str],
    ) -> Result<BTreeMap<String, Vec<Record>>, AptError> {
        let mut arguments: Vec<OsString> = vec!["show".into()];
        arguments.extend(extra.iter().map(OsString::from));
        arguments.extend(names.iter().map(|name| format!("{name}:{}", arch.debian()).into()));
        let program = self.tools.apt_cache.as_deref();
        let act = "read the package index";
        parse_index(&self.run(act, program, arguments, self.directory, &|| ())?)
    }

    fn current(&self, arch: Arch, name: &str) -> Result<Record, AptError> {
        let mut found = self.show(arch, &[name.to_owned()], &["--no-all-versions"])?;
        found
            .remove(name)
            .and_then(|records| records.into_iter().next())
            .ok_or_else(|| AptError::NotInIndex { package: name.to_owned(), arch: arch.debian() })
    }

    /// Chooses the locked version of each package where the index still has it, else the current.
    pub(crate) fn resolve(
        &self,
        set: &PackageSet,
        lock: &PackageLock,
        kernel: WithKernel,
    ) -> Result<Resolution, AptError> {
        let mut names: Vec<_> = lock.packages.iter().map(|package| package.name.clone()).collect();
        names.push(lock.kernel.name.clone());
        let known = self.show(lock.arch, &names, &[])?;
        let is_known = |wanted: &LockedPackage| {
            known
                .get(&wanted.name)
                .is_some_and(|records| records.iter().any(|record| record.package == *wanted))
        };
        let mut notes = Vec::new();
        let mut packages = Vec::new();
        for wanted in &lock.packages {
            if is_known(wanted) {
                packages.push(wanted.clone());
                continue;
            }
            let current = self.current(lock.arch, &wanted.name)?.package;
            notes.push(note(wanted, &current));
            packages.push(current);
        }
        let kernel = if kernel == WithKernel::No || is_known(&lock.kernel) {
            lock.kernel.clone()
        } else {
            let current = self.current_kernel(lock.arch, &set.kernel)?;
            notes.push(note(&lock.kernel, &current));
            current
        };
        Ok(Resolution { packages, kernel, notes })
    }

    /// The current versions of packages and of all that they depend on, as if nothing were installed;
    /// what they merely recommend is left out.
    pub(crate) fn closure(
        &self,
        arch: Arch,
        names: &[String],
    ) -> Result<Vec<LockedPackage>, AptError> {
        let words = ["-qq", "--simulate", "--no-install-recommends", "-o"];
        let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        arguments.extend(["Dir::State::status=/dev/null".into(), "install".into()]);
        arguments.extend(names.iter().map(|name| format!("{name}:{}", arch.debian()).into()));
        let program = self.tools.apt_get.as_deref();
        let act = "choose packages";
        let plan = self.run(act, program, arguments, self.directory, &|| ()).map_err(|source| {
            AptError::NoClosure { packages: names.join(", "), source: Box::new(source) }
        })?;
        let chosen: Vec<(&str, &str)> = plan.lines().filter_map(planned).collect();
        let all: Vec<String> = chosen.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut known = self.show(arch, &all, &[])?;
        let mut packages = Vec::new();
        for (name, version) in chosen {
            let records = known.remove(name).unwrap_or_default();
            let record = records.into_iter().find(|record| record.package.version == version);
            let package = record.map(|record| record.package).ok_or_else(|| {
                AptError::NotInIndex { package: name.to_owned(), arch: arch.debian() }
            })?;
            packages.push(package);
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        // apt takes a name that no package has for a pattern.
        match names.iter().find(|name| packages.iter().all(|package| package.name != **name)) {
            None => Ok(packages),
            Some(name) => Err(AptError::NotInIndex { package: name.clone(), arch: arch.debian() }),
        }
    }

    fn current_kernel(&self, arch: Arch, family: &str) -> Result<LockedPackage, AptError> {
        let record = self.current(arch, family)?;
        let name = first_kernel(&record.depends)
            .ok_or_else(|| AptError::NoKernel { package: family.to_owned() })?;
        Ok(self.current(arch, name)?.package)
    }

    /// Downloads packages into `to`, each under a name of apt's choosing.
    pub(crate) fn download(
        &self,
        arch: Arch,
        packages: &[LockedPackage],
        to: &Path,
        tick: &dyn Fn(u64),
    ) -> Result<(), AptError> {
        let mut arguments: Vec<OsString> = vec!["-qq".into(), "download".into()];
        arguments.extend(
            packages.iter().map(|p| format!("{}:{}={}", p.name, arch.debian(), p.version).into()),
        );
        let program = self.tools.apt_get.as_deref();
        self.run("download packages", program, arguments, to, &|| tick(super::bytes_in(to)))?;
        Ok(())
    }
}

fn note(locked: &LockedPackage, current: &LockedPackage) -> String {
    format!(
        "{} {} of the lock has left the signed package index; {} {} was taken",
        locked.name, locked.version, current.name, current.version
    )
}

/// Name and version of a line `Inst NAME[:ARCH] (VERSION …` of a simulated installation.
fn planned(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let version = rest.split_once('(')?.1.split([' ', ')']).next()?;
    Some((name.split(':').next()?, version))
}

/// The first `linux-image-…` package of a `Depends` field.
fn first_kernel(depends: &str) -> Option<&str> {
    depends
        .split(',')
        .filter_map(|item| item.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
}

/// Reads the stanzas of `apt-cache show`, by package name.
fn parse_index(text: &str) -> Result<BTreeMap<String, Vec<Record>>, AptError> {
    let mut found: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = stanza
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key, value.trim()))
            .collect();
        let (Some(name), Some(version)) = (fields.get("Package"), fields.get("Version")) else {
            continue;
        };
        let digest = fields.get("SHA256").and_then(|text| text.parse().ok());
        let size = fields.get("Size").and_then(|text| text.parse().ok());
        // This is of no index: a version that is installed on this machine.
        if digest.is_none() && fields.contains_key("Status") {
            continue;
        }
        let (Some(sha256), Some(size)) = (digest, size) else {
            return Err(AptError::NoDigest { package: (*name).to_owned() });
        };
        let package = LockedPackage {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            size,
            sha256,
        };
        let depends = fields.get("Depends").copied().unwrap_or_default().to_owned();
        found.entry(package.name.clone()).or_default().push(Record { package, depends });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
