//! Configuration: built-in defaults, then `config.toml`, then the environment, then the caller.
//!
//! This is the only module that reads the environment (SPEC §14). [`Config::settings`] tells of each
//! setting where its value comes from.

mod environment;
mod file;
mod keys;
mod settings;
mod storage;
mod tables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::{TenantId, VmmVersion},
    layout,
    plan::policy::PressureLimits,
    pool::Resources,
    secrets::ValueSource,
};
use mvm_engine::engine::VCPU_OVERCOMMIT;
use mvm_host::disk::{given::GivenKeys, space::RESERVE_PERCENT};
use serde::Deserialize;

use crate::{
    forward,
    provider::{HostChoice, Machine},
};
pub(crate) use environment::variable;
use environment::{environment, host, travels, version, yes_or_no};
use file::{Presence, read_file};
use settings::Settings;
pub use settings::{Origin, Setting};
pub use storage::Storage;

/// Seconds that a command waits for another one on the same subject, unless told otherwise.
const LOCK_WAIT: u16 = 120;
/// The share of the memory that guests may have unless told otherwise: the rest is the host's.
const GUEST_MEMORY_PERCENT: u32 = 90;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// State, images, volumes (`MVM_DATA_DIR`, `/var/lib/mvm`).
    pub data_dir: PathBuf,
    /// Configuration and trusted keys (`MVM_CONFIG_DIR`, `/etc/mvm`).
    pub config_dir: PathBuf,
    /// Locks, sockets, records of processes; on a tmpfs (`MVM_RUN_DIR`, `/run/mvm`).
    pub run_dir: PathBuf,
    /// Where `mvm-hostd` listens; without root everything is asked of it (`<run_dir>/hostd.sock`).
    pub hostd_socket: PathBuf,
    /// Whether root, too, asks `mvm-hostd`: when a caller named its socket.
    pub through_hostd: bool,
    /// Whether everything that weakens isolation is refused (`MVM_PRODUCTION=1`).
    pub production: bool,
    /// The Firecracker version of new instances (`MVM_FC_VERSION`).
    pub firecracker: VmmVersion,
    /// How many of a pool's newest builds garbage collection keeps (`gc.keep_builds`).
    pub keep_builds: u32,
    /// How much of the disk, in MiB, images that no pool uses and downloads may take after a build
    /// (`gc.cache_budget_mib`).
    pub cache_budget_mib: u32,
    /// Where assets are looked for before their own sources (`MVM_ASSET_MIRROR`).
    pub asset_mirror: Option<String>,
    /// A file with credentials for registries, as `docker login` writes it
    /// (`registries.auth_file`, `~/.docker/config.json`).
    pub registry_auth_file: PathBuf,
    /// Where templates are pushed to and pulled from (`[storage]`).
    pub storage: Storage,
    /// Registries that are spoken to without TLS (`registries.insecure`); this machine always is.
    pub insecure_registries: Vec<String>,
    /// The file of the key that releases must be signed with, instead of the one that is built in.
    pub release_key: Option<PathBuf>,
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
    /// How much of the node's memory guests may have together, in percent; above 100 for guests that
    /// are known not to use what they have.
    pub guest_memory_percent: u32,
    /// The size of the microVMs that build flakes (`builder.vcpus`, `builder.mem_mib`, `builder.disk_mib`).
    pub builder: Resources,
    /// When policy counts the host as short of memory (`policy.memory_available_percent`,
    /// `policy.memory_stalled_percent`).
    pub pressure: PressureLimits,
    /// Where keys of tenants are that each command brings along (`MVM_TENANT_KEY_<ID>`).
    pub tenant_keys: BTreeMap<TenantId, ValueSource>,
    /// What is logged to standard error, as directives `target=level,…` (`MVM_LOG`); nothing if
    /// absent.
    pub log: Option<String>,
    /// The form of the log; that of the results if absent.
    pub log_format: Option<LogFormat>,
    /// At which size, in bytes, a tenant's `audit.log` is rotated (`audit.rotate_bytes`).
    pub audit_rotate_bytes: u64,
    /// How many rotated files a tenant's audit log keeps (`audit.keep_files`).
    pub audit_keep_files: u64,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What a caller sets over everything else.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Read this file instead of `<config_dir>/config.toml`.
    pub config_file: Option<PathBuf>,
    /// As [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// As [`Config::log`].
    pub log: Option<String>,
    /// As [`Config::log_format`].
    pub log_format: Option<LogFormat>,
    /// As [`Config::hostd_socket`].
    pub hostd_socket: Option<PathBuf>,
}

impl Overrides {
    /// What of it counts here: in a machine that was forwarded to, the caller's paths mean nothing.
    fn here(&self) -> Self {
        if forward::is_far() {
            Self { config_file: None, data_dir: None, ..self.clone() }
        } else {
            self.clone()
        }
    }
}

impl Config {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// `Invalid` with file, line and key when the file or a variable makes no sense.
    pub fn read(overrides: &Overrides) -> Result<Self, Error> {
        let (mut config, _) = Self::assemble(&overrides.here(), &environment)?;
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

    /// Every setting of this process, with its value and where that comes from.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn settings(overrides: &Overrides) -> Result<Vec<Setting>, Error> {
        Ok(Self::assemble(&overrides.here(), &environment)?.1)
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
        out.insert("MVM_FC_VERSION".to_owned(), self.firecracker.to_string());
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
        file::set_production(&self.config_dir)
    }

    fn assemble(
        overrides: &Overrides,
        variable: &dyn Fn(&str) -> Result<Option<String>, Error>,
    ) -> Result<(Self, Vec<Setting>), Error> {
        let mut all = Settings::new(variable);
        let path = |text: String| Ok(PathBuf::from(text));
        let config_dir =
            all.named("config_dir").variable("MVM_CONFIG_DIR", path)?.or("/etc/mvm".into());
        let file = match &overrides.config_file {
            Some(file) => read_file(file, Presence::Required)?,
            None => read_file(&config_dir.join("config.toml"), Presence::Optional)?,
        };
        let (data_dir, run_dir) = directories(&mut all, overrides, file.data_dir, file.run_dir)?;
        let hostd_socket = socket(&mut all, overrides, &run_dir);
        let production = all
            .named("production")
            .variable("MVM_PRODUCTION", |text| yes_or_no("MVM_PRODUCTION", &text))?
            .file(file.production)
            .or(false);
        let (firecracker, asset_mirror) = supply(&mut all, file.firecracker, file.asset_mirror)?;
        let release_key = all.named("release_key").file(file.release_key).or_none();
        let (log, log_format) = logging(&mut all, overrides, file.log, file.log_format)?;
        let lock_wait = all.named("lock_wait_seconds").file(file.lock_wait_seconds).or(LOCK_WAIT);
        let host_choice = all.named("host").variable("MVM_HOST", |text| host(&text))?;
        let host_choice = host_choice.file(file.host).or(HostChoice::default());
        let (audit_rotate_bytes, audit_keep_files) = tables::audit(&mut all, &file.audit);
        let reserve = all.named("disk_reserve_percent").file(file.disk_reserve_percent);
        let disk_reserve_percent = reserve.or(RESERVE_PERCENT);
        let (vcpu_overcommit, guest_memory_percent) =
            for_guests(&mut all, file.vcpu_overcommit, file.guest_memory_percent);
        let (keep_builds, cache_budget_mib) = tables::gc(&mut all, &file.gc);
        let (registry_auth_file, insecure_registries) =
            tables::registries(&mut all, file.registries);
        let config = Self {
            data_dir,
            config_dir,
            run_dir,
            hostd_socket,
            through_hostd: overrides.hostd_socket.is_some(),
            production,
            firecracker,
            keep_builds,
            cache_budget_mib,
            asset_mirror,
            registry_auth_file,
            insecure_registries,
            storage: storage::read(&mut all, file.storage)?,
            release_key,
            lock_wait: Duration::from_secs(lock_wait.into()),
            log,
            log_format,
            audit_rotate_bytes,
            audit_keep_files,
            host: host_choice,
            machine: file.machine,
            mtu: all.named("mtu").file(file.mtu).or_none(),
            disk_reserve_percent,
            vcpu_overcommit,
            guest_memory_percent,
            builder: tables::builder(&mut all, &file.builder),
            pressure: tables::pressure(&mut all, &file.policy),
            tenant_keys: file.tenant_keys,
        };
        Ok((config.validate()?, all.list))
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
        for (name, value) in [
            ("vcpu_overcommit", self.vcpu_overcommit),
            ("guest_memory_percent", self.guest_memory_percent),
        ] {
            if !(1..=1000).contains(&value) {
                let message = format!("{name} is {value}: it must be 1 to 1000");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        tables::admit_limits(self.pressure)?;
        self.builder
            .validate()
            .map_err(|error| error.context("the size of builders makes no sense"))?;
        for (name, value, least) in [
            ("audit.rotate_bytes", self.audit_rotate_bytes, 256),
            ("audit.keep_files", self.audit_keep_files, 1),
        ] {
            if value < least {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("{name} is {value}: it must be {least} or more"),
                ));
            }
        }
        self.machine.validate()?;
        Ok(self)
    }
}

/// Which Firecracker new microVMs run, and who is asked for files before their own sources.
fn supply(
    all: &mut Settings<'_>,
    firecracker: Option<VmmVersion>,
    mirror: Option<String>,
) -> Result<(VmmVersion, Option<String>), Error> {
    let version = all.named("firecracker").variable("MVM_FC_VERSION", version)?;
    let version = version.file(firecracker).or(VmmVersion::built_in());
    let place = all.named("asset_mirror").variable("MVM_ASSET_MIRROR", Ok)?;
    Ok((version, place.file(mirror).or_none()))
}

/// Where state and where sockets are.
fn directories(
    all: &mut Settings<'_>,
    overrides: &Overrides,
    data: Option<PathBuf>,
    run: Option<PathBuf>,
) -> Result<(PathBuf, PathBuf), Error> {
    let path = |text: String| Ok(PathBuf::from(text));
    let chosen = all.named("data_dir").flag(overrides.data_dir.clone());
    let data = chosen.variable("MVM_DATA_DIR", path)?.file(data).or("/var/lib/mvm".into());
    let chosen = all.named("run_dir").variable("MVM_RUN_DIR", path)?;
    Ok((data, chosen.file(run).or("/run/mvm".into())))
}

fn socket(all: &mut Settings<'_>, overrides: &Overrides, run: &Path) -> PathBuf {
    let chosen = all.named("hostd_socket").flag(overrides.hostd_socket.clone());
    chosen.or(run.join(layout::run::HOSTD))
}

/// What guests may have of the node's processors and memory.
fn for_guests(all: &mut Settings<'_>, overcommit: Option<u32>, memory: Option<u32>) -> (u32, u32) {
    let overcommit = all.named("vcpu_overcommit").file(overcommit).or(VCPU_OVERCOMMIT);
    let memory = all.named("guest_memory_percent").file(memory).or(GUEST_MEMORY_PERCENT);
    (overcommit, memory)
}

/// What is logged, and in which form.
fn logging(
    all: &mut Settings<'_>,
    overrides: &Overrides,
    log: Option<String>,
    format: Option<LogFormat>,
) -> Result<(Option<String>, Option<LogFormat>), Error> {
    let chosen = all.named("log").flag(overrides.log.clone()).variable("MVM_LOG", Ok)?;
    let log = chosen.file(log).or_none();
    let chosen = all.named("log_format").flag(overrides.log_format);
    Ok((log, chosen.file(format).or_none()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;
    use crate::config::file::File;

    fn with(variables: &[(&str, &str)]) -> Result<Config, Error> {
        Ok(found(&Overrides::default(), variables)?.0)
    }

    fn found(
        overrides: &Overrides,
        variables: &[(&str, &str)],
    ) -> Result<(Config, Vec<Setting>), Error> {
        let nowhere = ("MVM_CONFIG_DIR", "/nonexistent");
        Config::assemble(overrides, &|name| {
            let found = variables
                .iter()
                .chain(std::iter::once(&nowhere))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned());
            Ok(found)
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
            let place = |name: &str| Ok((name == "MVM_CONFIG_DIR").then(|| place.clone()));
            Config::assemble(&Overrides::default(), &place).map(|(config, _)| config)
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

    #[test]
    fn every_setting_tells_where_its_value_comes_from() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "run_dir = \"/r\"\nlog = \"mvm=info\"\n[audit]\nkeep_files = 3\n")
            .unwrap();
        let overrides = Overrides {
            config_file: Some(file),
            data_dir: Some("/flag".into()),
            ..Overrides::default()
        };
        let variables = [("MVM_DATA_DIR", "/variable"), ("MVM_LOG", "debug")];
        let (config, settings) = found(&overrides, &variables).unwrap();
        let of = |name: &str| {
            let one = settings.iter().find(|one| one.name == name).unwrap();
            (one.value.clone(), one.origin)
        };
        assert_eq!(of("data_dir"), (Some("/flag".to_owned()), Origin::Flag));
        assert_eq!(of("log"), (Some("debug".to_owned()), Origin::Environment));
        assert_eq!(of("run_dir"), (Some("/r".to_owned()), Origin::File));
        assert_eq!(of("audit.keep_files"), (Some("3".to_owned()), Origin::File));
        assert_eq!(of("production"), (Some("false".to_owned()), Origin::Default));
        assert_eq!(of("asset_mirror"), (None, Origin::Default));
        assert_eq!(config.data_dir, Path::new("/flag"));
    }

    #[test]
    fn when_the_host_is_short_of_memory_can_be_set_within_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let config_file = Some(file.clone());
            found(&Overrides { config_file, ..Overrides::default() }, &[])
        };
        let (config, _) = read("[policy]\nmemory_available_percent = 40").unwrap();
        let limits = PressureLimits { available_percent: 40, ..PressureLimits::default() };
        assert_eq!(config.pressure, limits);
        for (key, value) in [("memory_available_percent", 0), ("memory_stalled_percent", 101)] {
            let refused = read(&format!("[policy]\n{key} = {value}")).unwrap_err();
            assert!(refused.message.contains(&format!("policy.{key}")), "{refused}");
        }
    }

    #[test]
    fn a_log_that_would_rotate_with_every_line_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "audit.rotate_bytes = 1").unwrap();
        let overrides = Overrides { config_file: Some(file), ..Overrides::default() };
        assert!(found(&overrides, &[]).unwrap_err().message.contains("audit.rotate_bytes"));
    }
}
