//! `Mvmfile.toml`: what a person says an image shall be (SPEC §5).
//!
//! ```toml
//! [image]
//! name = "web"
//! base = "default"              # or deb:…, or oci:…
//! [packages]
//! apt = ["ca-certificates"]
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
        ImageRef,
        image::{self, OciRef},
    },
};
use serde::Deserialize;

/// The file's name in a directory.
pub(crate) const NAME: &str = "Mvmfile.toml";
/// The largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Most services.
const SERVICES_MAX: usize = 100;

/// What an image is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mvmfile {
    /// The image's name.
    pub name: String,
    /// What it begins with.
    pub base: Base,
    /// Debian packages beside those of the base.
    pub packages: Vec<String>,
    /// What it runs; none leaves what the base runs.
    pub workload: Option<Workload>,
}

/// What an image begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// The packages of the default image.
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
struct WrittenVolume {
    host: String,
    guest: String,
    size: String,
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
#[serde(untagged)]
enum WrittenCommand {
    Shell(String),
    Words(Vec<String>),
}

impl Mvmfile {
    /// Reads the file of a directory.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Invalid` with line, column and key, or with what makes no
    /// sense; `Unavailable` for what needs a builder.
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
        if let Some(run) = self.run.first() {
            let message =
                format!("[[run]] {:?}: this version runs no commands in images yet", run.command);
            return Err(Error::new(ErrorKind::Unavailable, message)
                .hint("take an image that has it done: base = \"oci:…\""));
        }
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
        for volume in &self.volumes {
            let WrittenVolume { host, guest, size } = volume;
            if host.is_empty() || size.is_empty() || !guest.starts_with('/') {
                let message =
                    format!("a volume of {host:?} at {guest:?} of the size {size:?} is none");
                return Err(invalid(message).hint("guest is an absolute path"));
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
        let workload = workload(self.services)?;
        Ok(Mvmfile { name: self.image.name, base, packages, workload })
    }
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
fn located(text: &str, error: &toml::de::Error) -> String {
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn read(text: &str) -> Result<Mvmfile, Error> {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(NAME), text).unwrap();
        Mvmfile::of_directory(place.path())
    }

    #[test]
    fn services_packages_and_base_are_read() {
        let text = "[image]\nname = \"web\"\nbase = \"deb:busybox-static\"\ndisk = 512\n\
            [resources]\nmemory = 256\ncpus = 1\n[packages]\napt = [\"zlib1g\", \"libc6\"]\n\
            [[volumes]]\nhost = \"data\"\nguest = \"/data\"\nsize = \"1G\"\n\
            [[services]]\nname = \"db\"\ncommand = [\"/db\", \"-x\"]\nrestart = \"on-failure\"\n\
            [[services]]\nname = \"web\"\ncommand = \"exec httpd -f\"\nafter = [\"db\"]\nenv = { A = \"b\" }\n";
        let file = read(text).unwrap();
        assert_eq!(file.base, Base::Packages(vec!["busybox-static".to_owned()]));
        assert_eq!(file.packages, ["libc6", "zlib1g"]);
        let services = file.workload.unwrap().services;
        let [db, web] = services.as_slice() else { unreachable!() };
        assert_eq!((db.argv.len(), db.restart), (2, Restart::OnFailure));
        assert_eq!(web.argv, ["/bin/sh", "-c", "exec httpd -f"]);
        assert_eq!(web.env.get("A").map(String::as_str), Some("b"));
        let least = read("[image]\nname = \"a\"\n").unwrap();
        assert_eq!((least.base, least.workload), (Base::Default, None));
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place_and_the_nearest_one() {
        let error = read("[image]\nname = \"a\"\nbse = \"default\"\n").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let text = error.to_string();
        for part in [NAME, "line 3, column 1", "`bse`", "did you mean base?"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let image = "[image]\nname = \"a\"\n";
        let service = |rest: &str| format!("{image}[[services]]\nname = \"s\"\n{rest}");
        for text in [
            String::new(),
            "[image]\nname = \"A\"\n".to_owned(),
            format!("{image}disk = 0\n"),
            format!("{image}base = \"other\"\n"),
            format!("{image}base = \"oci:app\"\n"),
            format!("{image}base = \"oci:r.example.com/a\"\n[packages]\napt = [\"zlib1g\"]\n"),
            format!("{image}[packages]\napt = [\"-o\"]\n"),
            format!("{image}[[volumes]]\nhost = \"a\"\nguest = \"b\"\nsize = \"1G\"\n"),
            service("command = []\n"),
            service("command = \"x\"\nafter = [\"gone\"]\n"),
            service("command = \"x\"\nafter = [\"s\"]\n"),
            service("command = \"x\"\nrestart = \"often\"\n"),
            service("command = \"x\"\n[[services]]\nname = \"s\"\ncommand = \"y\"\n"),
        ] {
            assert_eq!(read(&text).unwrap_err().kind, ErrorKind::Invalid, "{text}");
        }
        let error = read(&format!("{image}[[run]]\ncommand = \"make\"\n")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        let nowhere = Mvmfile::of_directory(Path::new("/no/such/place")).unwrap_err();
        assert_eq!(nowhere.kind, ErrorKind::NotFound);
    }
}
