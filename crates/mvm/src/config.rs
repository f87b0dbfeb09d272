//! Configuration: built-in defaults, then `config.toml`, then the environment, then the caller.
//!
//! This is the only file that reads the environment (SPEC §14).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::TenantId,
    secrets::ValueSource,
};
use mvm_engine::engine::VCPU_OVERCOMMIT;
use mvm_host::disk::{given::GivenKeys, space::RESERVE_PERCENT};
use serde::Deserialize;

mod keys;

use crate::{
    forward,
    provider::{HostChoice, Machine},
};

/// The version of Firecracker that is used unless told otherwise.
pub const FIRECRACKER: &str = "1.12.1";
/// Seconds that a command waits for another one on the same subject, unless told otherwise.
const LOCK_WAIT: u16 = 120;

/// How many builds of a pool are kept unless told otherwise.
const KEEP_BUILDS: u32 = 3;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// State, images, volumes (`MVM_DATA_DIR`, `/var/lib/mvm`).
    pub data_dir: PathBuf,
    /// Configuration and trusted keys (`MVM_CONFIG_DIR`, `/etc/mvm`).
    pub config_dir: PathBuf,
    /// Locks, sockets, records of processes; on a tmpfs (`MVM_RUN_DIR`, `/run/mvm`).
    pub run_dir: PathBuf,
    /// Whether everything that weakens isolation is refused (`MVM_PRODUCTION=1`).
    pub production: bool,
    /// The Firecracker version of new instances (`MVM_FC_VERSION`).
    pub firecracker: String,
    /// How many of a pool's newest builds garbage collection keeps (`gc.keep_builds`).
    pub keep_builds: u32,
    /// Where assets are looked for before their own sources (`MVM_ASSET_MIRROR`).
    pub asset_mirror: Option<String>,
    /// How long a command waits for another one on the same subject (`lock_wait_seconds`).
    pub lock_wait: Duration,
    /// Where microVMs run (`MVM_HOST`).
    pub host: HostChoice,
    /// How large the machine for them is, where there is one.
    pub machine: Machine,
    /// The largest packet of guests, in bytes, 576–9216; that of the host's uplinks if absent.
    pub mtu: Option<u16>,
    /// The share of the data file system that stays free, in percent.
    pub disk_reserve_percent: u8,
    /// How many vCPUs of guests one processor may have.
    pub vcpu_overcommit: u32,
    /// Where keys of tenants are that each command brings along (`MVM_TENANT_KEY_<ID>`).
    pub tenant_keys: BTreeMap<TenantId, ValueSource>,
}

/// What a caller sets over everything else.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Read this file instead of `<config_dir>/config.toml`.
    pub config_file: Option<PathBuf>,
    /// As [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
}

/// `config.toml`; unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mtu: Option<u16>,
    data_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    production: Option<bool>,
    firecracker: Option<String>,
    asset_mirror: Option<String>,
    lock_wait_seconds: Option<u16>,
    host: Option<HostChoice>,
    #[serde(default)]
    machine: Machine,
    disk_reserve_percent: Option<u8>,
    vcpu_overcommit: Option<u32>,
    #[serde(default)]
    tenant_keys: BTreeMap<TenantId, ValueSource>,
    #[serde(default)]
    gc: GcTable,
}

/// The table `[gc]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GcTable {
    keep_builds: Option<u32>,
}

impl Config {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// `Invalid` with file, line and key when the file or a variable makes no sense.
    pub fn read(overrides: &Overrides) -> Result<Self, Error> {
        // In a machine that was forwarded to, the caller's paths mean nothing.
        let none = Overrides::default();
        let overrides = if forward::is_far() { &none } else { overrides };
        let unreadable = RefCell::new(None);
        let config = Self::assemble(overrides, &|name| match std::env::var(name) {
            Ok(value) => Some(value).filter(|value| !value.is_empty()),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                unreadable.replace(Some(name.to_owned()));
                None
            }
        });
        if let Some(name) = unreadable.into_inner() {
            let message = format!("the value of {name} is not UTF-8");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let mut config = config?;
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        config.tenant_keys.extend(keys::named(names)?);
        keys::admit(&config.tenant_keys, config.production)?;
        Ok(config)
    }

    /// The keys of tenants that this process brings along.
    ///
    /// # Errors
    /// `Invalid` when a variable is not set or not text.
    pub(crate) fn given_keys(&self) -> Result<GivenKeys, Error> {
        keys::given(&self.tenant_keys, &variable)
    }

    /// The variables that a command takes along into another machine: how to speak, and what this
    /// configuration says about microVMs. Where things are kept here is nobody's business there.
    #[must_use]
    pub fn travelling(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            if let (Ok(name), Ok(value)) = (name.into_string(), value.into_string())
                && travels(&name)
            {
                out.insert(name, value);
            }
        }
        out.insert("MVM_FC_VERSION".to_owned(), self.firecracker.clone());
        out.insert("MVM_PRODUCTION".to_owned(), u8::from(self.production).to_string());
        // A directory of this machine is no mirror for another.
        if let Some(mirror) = self.asset_mirror.clone().filter(|mirror| !mirror.starts_with('/')) {
            out.insert("MVM_ASSET_MIRROR".to_owned(), mirror);
        }
        out
    }

    /// Writes `production = true` into the configuration file; the rest of it stays as it is.
    ///
    /// # Errors
    /// `Invalid` when the file makes no sense, `Failed` when it cannot be written.
    pub fn set_production(&self) -> Result<(), Error> {
        let path = self.config_dir.join("config.toml");
        let file = read_file(&path, Presence::Optional)?;
        if file.production == Some(true) {
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Failed, format!("cannot write {}", path.display()))
                .because(&error)
        };
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let kept = text
            .lines()
            .filter(|line| line.split_once('=').is_none_or(|(key, _)| key.trim() != "production"));
        // The key belongs above the first table.
        let text = std::iter::once("production = true").chain(kept).collect::<Vec<_>>().join("\n");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.config_dir)
            .map_err(failed)?;
        let part = path.with_extension("part");
        std::fs::write(&part, text + "\n")
            .and_then(|()| std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o600)))
            .and_then(|()| std::fs::File::open(&part)?.sync_all())
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(failed)
    }

    fn assemble(
        overrides: &Overrides,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let config_dir = path("MVM_CONFIG_DIR").unwrap_or_else(|| PathBuf::from("/etc/mvm"));
        let file = match &overrides.config_file {
            Some(file) => read_file(file, Presence::Required)?,
            None => read_file(&config_dir.join("config.toml"), Presence::Optional)?,
        };
        let production = match variable("MVM_PRODUCTION").as_deref() {
            None => file.production.unwrap_or(false),
            Some("1" | "true") => true,
            Some("0" | "false") => false,
            Some(other) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("MVM_PRODUCTION is {other:?}: it must be 1 or 0"),
                ));
            }
        };
        let config = Self {
            data_dir: overrides
                .data_dir
                .clone()
                .or_else(|| path("MVM_DATA_DIR"))
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from("/var/lib/mvm")),
            run_dir: path("MVM_RUN_DIR")
                .or(file.run_dir)
                .unwrap_or_else(|| PathBuf::from("/run/mvm")),
            config_dir,
            production,
            firecracker: variable("MVM_FC_VERSION")
                .or(file.firecracker)
                .unwrap_or_else(|| FIRECRACKER.to_owned()),
            keep_builds: file.gc.keep_builds.unwrap_or(KEEP_BUILDS),
            asset_mirror: variable("MVM_ASSET_MIRROR").or(file.asset_mirror),
            lock_wait: Duration::from_secs(file.lock_wait_seconds.unwrap_or(LOCK_WAIT).into()),
            host: match variable("MVM_HOST") {
                None => file.host.unwrap_or_default(),
                Some(text) => host(&text)?,
            },
            machine: file.machine,
            mtu: file.mtu,
            disk_reserve_percent: file.disk_reserve_percent.unwrap_or(RESERVE_PERCENT),
            vcpu_overcommit: file.vcpu_overcommit.unwrap_or(VCPU_OVERCOMMIT),
            tenant_keys: file.tenant_keys,
        };
        config.validate()
    }

    fn validate(self) -> Result<Self, Error> {
        for (name, dir) in [
            ("data directory", &self.data_dir),
            ("config directory", &self.config_dir),
            ("runtime directory", &self.run_dir),
        ] {
            if !dir.is_absolute() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("the {name} {} is not an absolute path", dir.display()),
                ));
            }
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(576..=9216).contains(mtu)) {
            let message = format!("the mtu {mtu} is outside 576 to 9216");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if self.disk_reserve_percent > 90 {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "disk_reserve_percent is {}: it must be 0 to 90",
                    self.disk_reserve_percent
                ),
            ));
        }
        if !(1..=1000).contains(&self.vcpu_overcommit) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("vcpu_overcommit is {}: it must be 1 to 1000", self.vcpu_overcommit),
            ));
        }
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if self.firecracker.split('.').count() != 3 || !self.firecracker.split('.').all(digits) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{:?} is not a Firecracker version: write major.minor.patch",
                    self.firecracker
                ),
            ));
        }
        self.machine.validate()?;
        Ok(self)
    }
}

/// The value of a variable of the environment, when it is text.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a variable goes along into another machine.
fn travels(name: &str) -> bool {
    const SPEECH: [&str; 7] = ["TERM", "COLORTERM", "NO_COLOR", "LANG", "TZ", "COLUMNS", "LINES"];
    const LOCAL: [&str; 8] = [
        "MVM_DATA_DIR",
        "MVM_CONFIG_DIR",
        "MVM_RUN_DIR",
        "MVM_HOST",
        "MVM_ASSET_MIRROR",
        "MVM_VERSION",
        "MVM_INSTALL_DIR",
        "MVM_FORWARDED",
    ];
    SPEECH.contains(&name)
        || name.starts_with("LC_")
        || (name.starts_with("MVM_") && !LOCAL.contains(&name))
}

fn host(text: &str) -> Result<HostChoice, Error> {
    Ok(match text {
        "auto" => HostChoice::Auto,
        "native" => HostChoice::Native,
        "qemu" => HostChoice::Qemu,
        "lima" => HostChoice::Lima,
        other => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("MVM_HOST is {other:?}: it must be auto, native, qemu or lima"),
            ));
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

fn read_file(file: &Path, presence: Presence) -> Result<File, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && presence == Presence::Optional =>
        {
            return Ok(File::default());
        }
        Err(error) => {
            return Err(Error::new(ErrorKind::Invalid, format!("cannot read {}", file.display()))
                .because(&error));
        }
    };
    toml::from_str(&text).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{} makes no sense", file.display())).because(&error)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Config, Error> {
        let nowhere = ("MVM_CONFIG_DIR", "/nonexistent");
        Config::assemble(&Overrides::default(), &|name| {
            variables
                .iter()
                .chain(std::iter::once(&nowhere))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_wins_over_the_defaults() {
        assert_eq!(with(&[]).unwrap().data_dir, Path::new("/var/lib/mvm"));
        assert_eq!(with(&[("MVM_DATA_DIR", "/d")]).unwrap().data_dir, Path::new("/d"));
        assert!(with(&[("MVM_PRODUCTION", "1")]).unwrap().production);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        for (name, value) in [
            ("MVM_PRODUCTION", "maybe"),
            ("MVM_DATA_DIR", "relative"),
            ("MVM_FC_VERSION", "1.12/.."),
            ("MVM_HOST", "cloud"),
        ] {
            assert_eq!(with(&[(name, value)]).unwrap_err().kind, ErrorKind::Invalid, "{name}");
        }
    }

    #[test]
    fn a_command_takes_along_keys_and_language_but_no_places() {
        for name in ["MVM_TENANT_KEY_ACME", "MVM_LOG", "TERM", "LC_ALL"] {
            assert!(travels(name), "{name}");
        }
        for name in ["MVM_DATA_DIR", "MVM_HOST", "PATH", "HOME", "AWS_SECRET_ACCESS_KEY"] {
            assert!(!travels(name), "{name}");
        }
    }

    #[test]
    fn production_is_written_above_what_is_there_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "production = false\nrun_dir = \"/r\"\n[machine]\ncpus = 3\n")
            .unwrap();
        let place = dir.path().to_str().unwrap().to_owned();
        let read = || {
            Config::assemble(&Overrides::default(), &|name| {
                (name == "MVM_CONFIG_DIR").then(|| place.clone())
            })
        };
        read().unwrap().set_production().unwrap();
        let config = read().unwrap();
        assert!(config.production && config.run_dir == Path::new("/r"));
        assert_eq!(config.machine.cpus, Some(3));
    }

    #[test]
    fn an_unknown_key_of_the_file_is_an_error() {
        assert!(toml::from_str::<File>("data_dri = \"/x\"").is_err());
    }
}
