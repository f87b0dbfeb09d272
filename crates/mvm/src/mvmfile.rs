//! `Mvmfile.toml`: what a person says an image shall be (SPEC §5).
//!
//! ```toml
//! [image]
//! name = "web"
//! base = "default"              # or deb:…, or oci:…
//! disk = 1024                   # MiB of the data disk of a pool's instances; or [[volumes]] with /data
//! [resources]
//! memory = 512                  # MiB of an instance
//! cpus = 1
//! [packages]
//! apt = ["ca-certificates"]
//! [[run]]
//! command = "make -C /srv"      # in the image's root, as root of a builder microVM
//! [[services]]
//! name = "web"
//! command = "exec httpd -f"     # for /bin/sh; or a list: the program and its arguments
//! ```
//!
//! Unknown keys are refused. It reads the file, and refuses to know how images are made.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use mvm_build::{Restart, Service, Workload};
use mvm_core::{
    document,
    error::{Error, ErrorKind},
    id::PoolId,
    pool::{
        ImageRef, PoolDefaults, Source,
        image::{self, OciRef},
    },
    units::{Mib, Vcpus},
};
use serde::Deserialize;

use crate::volume::{self, WrittenVolume};

/// The file's name in a directory.
pub(crate) const NAME: &str = "Mvmfile.toml";
/// The largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most services.
const SERVICES_MAX: usize = 100;
/// The longest that all commands of `[[run]]` may be together, in bytes: they travel in one frame.
const RUN_MAX: usize = 64 << 10;
/// Where an instance has its data disk.
const DATA: &str = "/data";

/// What an image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mvmfile {
    /// The image's name.
    pub name: String,
    /// What it begins with.
    pub base: Base,
    /// Debian packages beside those of the base.
    pub packages: Vec<String>,
    /// Commands that make the image's root what it shall be.
    pub run: Vec<String>,
    /// What it runs; none leaves what the base runs.
    pub workload: Option<Workload>,
    /// What instances get.
    pub defaults: PoolDefaults,
}

/// What the source of a pool says: the `Mvmfile.toml` of a directory; nothing for any other source.
///
/// # Errors
/// Those of reading the file.
pub(crate) fn pool_defaults(source: &Source) -> Result<PoolDefaults, Error> {
    let Source::Image(text) = source else { return Ok(PoolDefaults::default()) };
    match text.parse::<ImageRef>()? {
        ImageRef::Path(path) if Path::new(&path).is_dir() => {
            Ok(Mvmfile::of_directory(Path::new(&path))?.defaults)
        }
        ImageRef::Path(_)
        | ImageRef::Stored(_)
        | ImageRef::Oci(_)
        | ImageRef::OciArchive(_)
        | ImageRef::Packages(_)
        | ImageRef::PackageFile(_) => Ok(PoolDefaults::default()),
    }
}

/// What an image begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// The default image.
    Default,
    /// These packages.
    Packages(Vec<String>),
    /// An image of a registry.
    Oci(OciRef),
    /// A local archive.
    OciArchive(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    image: WrittenImage,
    #[serde(default)]
    resources: WrittenResources,
    #[serde(default)]
    packages: WrittenPackages,
    #[serde(default)]
    run: Vec<WrittenRun>,
    #[serde(default)]
    volumes: Vec<WrittenVolume>,
    #[serde(default)]
    services: Vec<WrittenService>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenImage {
    name: String,
    base: Option<String>,
    /// In MiB.
    disk: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenResources {
    /// In MiB.
    memory: Option<u32>,
    cpus: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPackages {
    #[serde(default)]
    apt: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRun {
    command: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenService {
    name: String,
    command: WrittenCommand,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    restart: Restart,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a command is a text for /bin/sh, or a list of a program and its arguments"
)]
enum WrittenCommand {
    Shell(String),
    Words(Vec<String>),
}

impl Mvmfile {
    /// Reads the file of a directory.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Invalid` with line, column and key, or with what makes no
    /// sense.
    pub(crate) fn of_directory(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(NAME);
        let shown = path.display();
        let wrong = |kind, why: &dyn std::fmt::Display| {
            Error::new(kind, format!("cannot read {shown}: {why}"))
        };
        let file = File::open(&path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                wrong(ErrorKind::NotFound, &error)
                    .hint(format!("write a {NAME} there, with a table [image] and in it a name"))
            } else {
                wrong(ErrorKind::Failed, &error)
            }
        })?;
        let mut text = String::new();
        file.take(FILE_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| wrong(ErrorKind::Invalid, &error))?;
        if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX) {
            return Err(wrong(ErrorKind::Invalid, &format!("it is longer than {FILE_MAX} bytes")));
        }
        let written: Written = toml::from_str(&text)
            .map_err(|error| wrong(ErrorKind::Invalid, &located(&text, &error)))?;
        written.checked().map_err(|error| error.context(format!("{shown} makes no sense")))
    }
}

impl Written {
    fn checked(self) -> Result<Mvmfile, Error> {
        let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
        if self.image.name.parse::<PoolId>().is_err() {
            return Err(invalid(format!("image.name {:?} is no name", self.image.name))
                .hint("use 1 to 63 of a-z, 0-9 and hyphens, with none at an end"));
        }
        for (name, value) in [
            ("image.disk", self.image.disk),
            ("resources.memory", self.resources.memory),
            ("resources.cpus", self.resources.cpus),
        ] {
            if value == Some(0) {
                return Err(invalid(format!("{name} is 0")));
            }
        }
        let base = base(self.image.base.as_deref().unwrap_or("default"))?;
        let packages = match self.packages.apt.as_slice() {
            [] => Vec::new(),
            names => image::packages(names.iter().map(String::as_str))?,
        };
        if !packages.is_empty() && matches!(base, Base::Oci(_) | Base::OciArchive(_)) {
            return Err(invalid("packages.apt: an OCI image gets no Debian packages".to_owned())
                .hint("put them into the OCI image, or take base = \"default\" or \"deb:…\""));
        }
        let run: Vec<String> = self.run.into_iter().map(|run| run.command).collect();
        if run.iter().any(|line| line.trim().is_empty() || line.contains('\0'))
            || run.iter().map(String::len).sum::<usize>() > RUN_MAX
        {
            return Err(invalid(format!(
                "a command of [[run]] is none, or there are more than {RUN_MAX} bytes of them"
            ))
            .hint("put a program into a package or an image, and run that"));
        }
        let defaults = PoolDefaults {
            vcpus: self.resources.cpus.map(Vcpus),
            mem_mib: self.resources.memory.map(Mib),
            data_disk_mib: data_disk(self.image.disk, &self.volumes)?,
        };
        let workload = workload(self.services)?;
        Ok(Mvmfile { name: self.image.name, base, packages, run, workload, defaults })
    }
}

/// The data disk of an instance: it has one, at `/data`, so that is what a volume can be.
fn data_disk(disk: Option<u32>, volumes: &[WrittenVolume]) -> Result<Option<Mib>, Error> {
    let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
    let Some((WrittenVolume { host, guest, size }, more)) = volumes.split_first() else {
        return Ok(disk.map(Mib));
    };
    if !more.is_empty() || disk.is_some() {
        let message = "the data disk is there more than once: image.disk and each of [[volumes]]";
        return Err(invalid(message.to_owned()).hint("an instance has one, at /data: keep one"));
    }
    if host.is_empty() || guest != DATA {
        return Err(invalid(format!("a volume of {host:?} at {guest:?} is none"))
            .hint("an instance has its own, at /data: guest = \"/data\""));
    }
    let mib = volume::size(size).ok_or_else(|| {
        invalid(format!("{size:?} is no size of a volume")).hint("write for example 512M or 2G")
    })?;
    Ok(Some(mib))
}

fn base(text: &str) -> Result<Base, Error> {
    match text.parse::<ImageRef>()? {
        ImageRef::Stored(name) if name == "default" => Ok(Base::Default),
        ImageRef::Packages(packages) => Ok(Base::Packages(packages)),
        ImageRef::Oci(reference) => Ok(Base::Oci(reference)),
        ImageRef::OciArchive(path) => Ok(Base::OciArchive(path)),
        ImageRef::Stored(_) | ImageRef::PackageFile(_) | ImageRef::Path(_) => {
            Err(Error::new(ErrorKind::Invalid, format!("image.base {text:?} is no base"))
                .hint("write default, deb:NAME,…, oci:… or oci-archive:/…"))
        }
    }
}

fn workload(services: Vec<WrittenService>) -> Result<Option<Workload>, Error> {
    if services.is_empty() {
        return Ok(None);
    }
    let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
    if services.len() > SERVICES_MAX {
        return invalid(format!("there are more than {SERVICES_MAX} services"));
    }
    let names: Vec<String> = services.iter().map(|one| one.name.clone()).collect();
    let mut all = Vec::new();
    for (number, one) in services.into_iter().enumerate() {
        let WrittenService { name, command, after, restart, env } = one;
        if name.parse::<PoolId>().is_err() || names.iter().take(number).any(|other| *other == name)
        {
            return invalid(format!("services: {name:?} is no name, or there twice"));
        }
        if let Some(unknown) = after.iter().find(|other| !names.contains(other) || **other == name)
        {
            return invalid(format!(
                "the service {name} is after {unknown:?}, which is no other one"
            ));
        }
        let argv = match command {
            WrittenCommand::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
            WrittenCommand::Words(words) => words,
        };
        let has_nul = argv.iter().chain(env.keys()).chain(env.values()).any(|t| t.contains('\0'));
        if argv.first().is_none_or(String::is_empty) || has_nul {
            return invalid(format!("the command of the service {name} is none"));
        }
        all.push(Service { name, argv, env, user: None, cwd: None, after, restart });
    }
    Ok(Some(Workload { services: all }))
}

/// Where a text of TOML is wrong and what is, with the key that was probably meant.
pub(crate) fn located(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|one| *one != '\n').count() + 1;
    let what = error.message().lines().next().unwrap_or_default();
    let quoted: Vec<&str> = what.split('`').skip(1).step_by(2).collect();
    let meant = match quoted.split_first() {
        Some((key, known)) if what.starts_with("unknown field") => document::nearest(key, known),
        Some(_) | None => None,
    };
    let meant = meant.map(|key| format!("; did you mean {key}?")).unwrap_or_default();
    format!("line {line}, column {column}: {what}{meant}")
}

#[cfg(test)]
mod tests;
