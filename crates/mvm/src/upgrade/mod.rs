//! Other versions of this program: the newest release, its signature, and the way back.
//!
//! ```text
//! SHA256SUMS + .sig ─ signature of the release key? ─▶ version, hash ─▶ archive ─ hash? ─▶ unpack
//!      │ no                                              │ older, same      │ no            │
//!      └──────────── refused, nothing changed ◀──────────┴──────────────────┘          starts? ─▶ switch
//! ```
//! The version is what the signed list says, never what an address says. Nothing of a release is run
//! before it was verified; then its `mvm --version` is, so that one that cannot run here changes
//! nothing. Which versions lie where is `place`'s. This module refuses to know microVMs: those that run
//! keep their shims, and daemons the version that they were started in until they are restarted.

mod place;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mvm_build::{
    Arch, FetchConfig, FetchError, Fetcher, Mirror,
    fetch::SourceFailure,
    release::{self, Archive, Edition, ReleaseError, SIGNATURE, SUMS, Sums, Version},
};
use mvm_core::{
    error::{Error, ErrorKind},
    port::{Progress, ProgressStep},
    signed::PublicKey,
};
use mvm_fleet::keys;
use mvm_host::tool;
use serde::Serialize;

use crate::config::Config;
use place::{Kept, Place, Pointer, Turn};

/// The key of this project's releases, with comments.
const KEY: &str = include_str!("../../../../packaging/release/key.pub");
/// Where dpkg keeps its lists of files.
const PACKAGES: &str = "/var/lib/dpkg/info";
/// How long a program may take to say its version.
const VERSION_WAIT: Duration = Duration::from_secs(20);
/// Units that run programs of ours, and where their processes are listed, by cgroup version.
const UNITS: [&str; 2] = ["mvm-hostd", "mvm-agentd"];
const SLICES: [&str; 2] = ["/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice"];

/// What became of the version here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeAct {
    /// The version that was asked for is the one that is here.
    None,
    /// Another one can be had; nothing was changed.
    Available,
    /// It was installed.
    Installed,
    /// The former version is in force again.
    RolledBack,
}

/// What an upgrade found or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpgradeReport {
    /// What became of the version here.
    pub act: UpgradeAct,
    /// The version that is in force.
    pub version: String,
    /// The version that was asked about: that of the release, or the former one.
    pub asked: String,
    /// The version that a rollback would bring back; none without one.
    pub former: Option<String>,
    /// The directory that programs are started from.
    pub directory: PathBuf,
    /// Units that go on in their former version until they are restarted.
    pub restart: Vec<String>,
}

/// Whether a version may be replaced by itself or an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Only an older version is replaced.
    Older,
    /// Any.
    Any,
}

/// Other versions of the program that runs.
pub struct Upgrade {
    place: Place,
    /// The version that is in force when no link says so: that of the program that runs.
    own: String,
    key: PublicKey,
    mirror: Option<Mirror>,
}

impl Upgrade {
    /// Of the program that runs.
    ///
    /// # Errors
    /// `Conflict` for a program of the Debian package; `Integrity` when no release key is trusted;
    /// `Invalid` for a mirror or a key that makes no sense.
    pub fn of(config: &Config) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot tell where this program is").because(&error)
        })?;
        let mirror = config.asset_mirror.as_deref().map(str::parse).transpose();
        Ok(Self {
            place: Place::of(&program, Path::new(PACKAGES))?,
            own: env!("CARGO_PKG_VERSION").to_owned(),
            key: key(config.release_key.as_deref())?,
            mirror: mirror.map_err(|error| {
                Error::new(ErrorKind::Invalid, "the asset mirror makes no sense").because(&error)
            })?,
        })
    }

    /// Whether there is another version; changes nothing.
    ///
    /// # Errors
    /// `Unavailable` when the release cannot be had, `Integrity` when it is not what was signed.
    pub fn check(&self, wanted: Option<&str>) -> Result<UpgradeReport, Error> {
        let scratch = tempfile::tempdir().map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot make a directory").because(&error)
        })?;
        let archive = self.release(&self.fetcher(scratch.path())?, wanted)?;
        let is_news = match wanted {
            Some(_) => archive.version != self.version()?,
            None => archive.version > self.version()?,
        };
        let act = if is_news { UpgradeAct::Available } else { UpgradeAct::None };
        self.report(act, archive.version.to_string())
    }

    /// Installs the newest version, or this one.
    ///
    /// # Errors
    /// As [`Upgrade::check`]; `Conflict` for an older version without [`Replace::Any`], and while
    /// somebody else upgrades. After an error the version in force is the one before.
    pub fn install(
        &self,
        wanted: Option<&str>,
        replace: Replace,
        progress: &dyn Progress,
    ) -> Result<UpgradeReport, Error> {
        let turn = self.place.turn()?;
        let part = turn.part()?;
        let fetcher = self.fetcher(&part.path().join("cache"))?;
        let archive = self.release(&fetcher, wanted)?;
        let here = self.version()?;
        if replace == Replace::Older && archive.version == here {
            return self.report(UpgradeAct::None, archive.version.to_string());
        }
        if replace == Replace::Older && archive.version < here {
            let message = format!("{} is older than {here}, which is here", archive.version);
            return Err(Error::new(ErrorKind::Conflict, message)
                .hint("go back to what was here before with --rollback, or add --force"));
        }
        let subject = format!("mvm {}", archive.version);
        let say = |activity: &str, done| {
            let activity = activity.to_owned();
            progress.report(&ProgressStep { subject: subject.clone(), activity, done, total: 0 });
        };
        let fetched = fetcher.release_archive(&archive, &|step| say("fetching", step.done));
        let fetched = fetched.map_err(|error| unfetched(&archive.version.to_string(), &error))?;
        say("installing", 0);
        let tree = part.path().join("tree");
        release::unpack(&fetched.path, &release::tree_name(&archive.version, arch()?), &tree)
            .map_err(|error| untaken(&error))?;
        starts(&tree.join("bin/mvm"), &archive.version)?;
        self.put(&turn, &tree, &archive.version)?;
        self.report(UpgradeAct::Installed, archive.version.to_string())
    }

    /// What a rollback would bring back; changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is no former version.
    pub fn former(&self) -> Result<UpgradeReport, Error> {
        let former = self.kept_former()?;
        self.report(UpgradeAct::Available, former.version().to_owned())
    }

    /// Brings the former version back; the present one is the former one then.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn roll_back(&self) -> Result<UpgradeReport, Error> {
        let former = self.kept_former()?;
        let turn = self.place.turn()?;
        turn.switch(&former)?;
        self.report(UpgradeAct::RolledBack, former.version().to_owned())
    }

    fn kept_former(&self) -> Result<Kept, Error> {
        self.place.kept(Pointer::Former).ok_or_else(|| {
            let place = self.place.directory().display();
            Error::new(ErrorKind::NotFound, format!("there is no former version in {place}"))
                .hint("install a certain one: mvm upgrade --version VERSION --force")
        })
    }

    fn put(&self, turn: &Turn<'_>, tree: &Path, version: &Version) -> Result<(), Error> {
        turn.ensure_adopted(&self.own)?;
        let kept = turn.take(tree, &version.to_string())?;
        turn.switch(&kept)
    }

    fn fetcher(&self, cache: &Path) -> Result<Fetcher, Error> {
        let mut settings = FetchConfig::new(cache.to_owned());
        settings.mirror.clone_from(&self.mirror);
        Fetcher::new(settings).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot prepare downloads").because(&error)
        })
    }

    /// The archive of a release, from its signed list.
    fn release(&self, fetcher: &Fetcher, wanted: Option<&str>) -> Result<Archive, Error> {
        let invalid = |error| Error::new(ErrorKind::Invalid, "no such version").because(&error);
        let wanted: Option<Version> = wanted
            .map(|text| text.parse().map_err(|error: release::InvalidVersion| invalid(error)))
            .transpose()?;
        let edition = wanted.clone().map_or(Edition::Latest, Edition::Exactly);
        let named = wanted.as_ref().map_or_else(|| "the newest".to_owned(), ToString::to_string);
        let get = |file| {
            fetcher.release_document(&edition, file).map_err(|error| unfetched(&named, &error))
        };
        let (sums, signature) = (get(SUMS)?, get(SIGNATURE)?);
        if !keys::verify(&self.key, &sums, &signature) {
            let message = format!("the signature of the release ({named}) does not hold");
            return Err(Error::new(ErrorKind::Integrity, message).hint(
                "nothing was changed; whoever offers this release does not have the release key",
            ));
        }
        let arch = arch()?;
        let archive = Sums::parse(&sums).and_then(|sums| sums.archive(arch));
        let archive = archive.map_err(|error| untaken(&error))?;
        if wanted.is_some_and(|wanted| wanted != archive.version) {
            let message = format!("the release {named} is signed as {}", archive.version);
            return Err(Error::new(ErrorKind::Integrity, message));
        }
        Ok(archive)
    }

    /// The version in force.
    fn version(&self) -> Result<Version, Error> {
        let text = self.place.kept(Pointer::Current);
        let text = text.as_ref().map_or(self.own.as_str(), Kept::version);
        text.parse().map_err(|error: release::InvalidVersion| {
            Error::new(ErrorKind::Failed, "the version here is none").because(&error)
        })
    }

    fn report(&self, act: UpgradeAct, asked: String) -> Result<UpgradeReport, Error> {
        let is_changed = matches!(act, UpgradeAct::Installed | UpgradeAct::RolledBack);
        Ok(UpgradeReport {
            act,
            version: self.version()?.to_string(),
            asked,
            former: self.place.kept(Pointer::Former).map(|kept| kept.version().to_owned()),
            directory: self.place.directory().to_owned(),
            restart: if is_changed { running_units() } else { Vec::new() },
        })
    }
}

/// The key that releases must be signed with: that of a file, else the one that is built in.
fn key(file: Option<&Path>) -> Result<PublicKey, Error> {
    let text = match file {
        None => KEY.to_owned(),
        Some(path) => fs::read_to_string(path).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("cannot read the release key {}", path.display()),
            )
            .because(&error)
        })?,
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.collect::<String>();
    if text.trim().is_empty() {
        let message = "no release key is trusted, so that no release can be verified";
        return Err(Error::new(ErrorKind::Integrity, message)
            .hint("name the file of one in config.toml: release_key = \"/etc/mvm/release.pub\""));
    }
    keys::read_public(&text).map_err(|reason| {
        Error::new(ErrorKind::Invalid, format!("the release key makes no sense: {reason}"))
    })
}

fn arch() -> Result<Arch, Error> {
    Arch::native().ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, "there are no releases for this processor")
    })
}

fn unfetched(named: &str, error: &FetchError) -> Error {
    let is_wrong = matches!(error, FetchError::NoSource { attempts, .. }
        if attempts.0.iter().any(|(_, why)| matches!(why, SourceFailure::WrongHash { .. })));
    let message = format!("cannot get the release ({named})");
    if is_wrong {
        return Error::new(ErrorKind::Integrity, message).because(error);
    }
    Error::new(ErrorKind::Unavailable, message)
        .because(error)
        .hint("check the version and the network, or set MVM_ASSET_MIRROR to a place that has it")
}

fn untaken(error: &ReleaseError) -> Error {
    let kind = match error {
        ReleaseError::Write { .. } => ErrorKind::Failed,
        ReleaseError::Line { .. }
        | ReleaseError::Sums
        | ReleaseError::Twice { .. }
        | ReleaseError::Archives { .. }
        | ReleaseError::Entry { .. }
        | ReleaseError::Program { .. }
        | ReleaseError::Read { .. } => ErrorKind::Integrity,
    };
    Error::new(kind, "the release is not taken").because(error)
}

/// Refuses a verified program that does not run here, or is another version than it was signed as.
fn starts(program: &Path, version: &Version) -> Result<(), Error> {
    let said = tool::run(program, &[OsStr::new("--version")], b"", VERSION_WAIT);
    let said =
        said.map_err(|error| Error::from(error).context("the new version does not run here"))?;
    let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if said == format!("mvm {version}") {
        return Ok(());
    }
    let message = format!("the new version calls itself {said:?}, and was signed as {version}");
    Err(Error::new(ErrorKind::Integrity, message))
}

/// The units of ours that have processes.
fn running_units() -> Vec<String> {
    let runs = |unit: &&&str| {
        SLICES.iter().any(|slice| {
            let processes = Path::new(slice).join(format!("{unit}.service/cgroup.procs"));
            fs::read_to_string(processes).is_ok_and(|text| !text.trim().is_empty())
        })
    };
    UNITS.iter().filter(runs).map(|unit| (*unit).to_owned()).collect()
}

#[cfg(test)]
mod tests;
