//! What is asked of the dev VM: flags, and what `runtime.toml` says beside them (SPEC §5).
//!
//! ```toml
//! cpus = 2
//! memory = 2048                 # in MiB
//! [[volumes]]
//! host = "/srv/data"
//! guest = "/mnt/data"
//! size = "10G"
//! ```
//!
//! Unknown keys are refused. It reads the file, and refuses to know what a VM is.

use std::{fmt, str::FromStr};

use mvm_build::ContentHash;
use mvm_core::{
    error::{Error, ErrorKind},
    units::{Mib, Vcpus},
};
use serde::Deserialize;

use crate::{
    forward::CallerPath,
    manifest,
    mvmfile::located,
    volume::{self, WrittenVolume},
};

/// What is asked of the dev VM; what is absent stays as it is, or is as by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevAsk {
    /// The image; `default` unless one was asked for before.
    pub image: Option<String>,
    /// Its vCPUs.
    pub cpus: Option<Vcpus>,
    /// Its memory.
    pub memory: Option<Mib>,
    /// Its volumes.
    pub volumes: Vec<VolumeAsk>,
}

impl DevAsk {
    /// What flags ask for, and a file where they say nothing; of volumes both, a flag's in place of a file's
    /// of the same host directory.
    ///
    /// # Errors
    /// `Invalid` with line, column and key, or with what makes no sense.
    pub fn read(flags: Self, file: Option<&CallerPath>) -> Result<Self, Error> {
        let written = match file {
            None => Self::default(),
            Some(file) => parse(file.typed(), &manifest::text(file)?)?,
        };
        let is_flag = |one: &VolumeAsk| flags.volumes.iter().any(|flag| flag.host == one.host);
        let of_file: Vec<_> = written.volumes.into_iter().filter(|one| !is_flag(one)).collect();
        let asked = Self {
            image: flags.image,
            cpus: flags.cpus.or(written.cpus),
            memory: flags.memory.or(written.memory),
            volumes: flags.volumes.into_iter().chain(of_file).collect(),
        };
        asked.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        for (at, one) in self.volumes.iter().enumerate() {
            let twice = self
                .volumes
                .iter()
                .skip(at + 1)
                .find(|other| other.host == one.host || other.guest == one.guest);
            if let Some(other) = twice {
                let message = format!("the volumes {one} and {other} are in one place");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(self)
    }
}

/// A volume: named by a directory of this host, at a place in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeAsk {
    /// The directory that it is filled from when it is made, as it was written; it names the volume.
    pub host: String,
    /// Where it is in the guest, an absolute path.
    pub guest: String,
    /// Its size.
    pub size: Mib,
}

impl VolumeAsk {
    fn new(host: &str, guest: &str, size: &str) -> Result<Self, Error> {
        let written = format!("{host}:{guest}:{size}");
        let wrong = |why: &str| {
            Err(Error::new(ErrorKind::Invalid, format!("{written:?} is no volume: {why}"))
                .hint("write HOST:GUEST:SIZE, for example /data:/mnt/data:10G"))
        };
        let is_plain = |path: &str| {
            path.starts_with('/')
                && path.split('/').all(|part| part != "..")
                && !path.chars().any(char::is_control)
        };
        if !is_plain(host) {
            return wrong("the directory of this host is no absolute path");
        }
        if !is_plain(guest) || guest.trim_matches('/').is_empty() {
            return wrong("the place in the guest is no absolute path");
        }
        let Some(size) = volume::size(size) else {
            return wrong("its size is none");
        };
        Ok(Self { host: host.to_owned(), guest: guest.to_owned(), size })
    }

    /// The volume's name, which follows from the directory of this host.
    #[must_use]
    pub fn key(&self) -> String {
        let host = self.host.trim_end_matches('/');
        let hash = ContentHash::of(host.as_bytes()).to_string();
        hash.get(..16).unwrap_or(&hash).to_owned()
    }
}

impl FromStr for VolumeAsk {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [host, guest, size] => Self::new(host, guest, size),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{text:?} is no volume"))
                .hint("write HOST:GUEST:SIZE, for example /data:/mnt/data:10G")),
        }
    }
}

impl fmt::Display for VolumeAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}M", self.host, self.guest, self.size.0)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cpus: Option<u32>,
    memory: Option<u32>,
    #[serde(default)]
    volumes: Vec<WrittenVolume>,
}

fn parse(name: &str, text: &str) -> Result<DevAsk, Error> {
    let written: Written = toml::from_str(text).map_err(|error| {
        let place = located(text, &error);
        Error::new(ErrorKind::Invalid, format!("cannot read {name}: {place}"))
    })?;
    let volumes = written.volumes.iter();
    let volumes = volumes.map(|one| VolumeAsk::new(&one.host, &one.guest, &one.size));
    let volumes = volumes.collect::<Result<_, _>>();
    Ok(DevAsk {
        image: None,
        cpus: written.cpus.map(Vcpus),
        memory: written.memory.map(Mib),
        volumes: volumes.map_err(|error| error.context(format!("{name} makes no sense")))?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    const FILE: &str = "cpus = 2\nmemory = 2048\n[[volumes]]\nhost = \"/data\"\nguest = \"/mnt/data\"\nsize = \"10G\"\n";

    fn volume(text: &str) -> VolumeAsk {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_says_what_flags_leave_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runtime.toml");
        std::fs::write(&path, FILE).unwrap();
        let file: crate::forward::InputPath = path.display().to_string().parse().unwrap();
        let all = DevAsk::read(DevAsk::default(), Some(&file)).unwrap();
        assert_eq!((all.cpus, all.memory), (Some(Vcpus(2)), Some(Mib(2048))));
        assert_eq!(all.volumes, [volume("/data:/mnt/data:10G")]);
        let flags = DevAsk {
            cpus: Some(Vcpus(4)),
            volumes: vec![volume("/data:/srv:1G"), volume("/other:/other:512M")],
            ..DevAsk::default()
        };
        let merged = DevAsk::read(flags.clone(), Some(&file)).unwrap();
        assert_eq!(merged, DevAsk { memory: Some(Mib(2048)), ..flags });
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_place_and_the_nearest_key() {
        for (text, wanted) in [
            (
                "cpu = 2\n",
                "cannot read runtime.toml: line 1, column 1: unknown field `cpu`, expected one of `cpus`, `memory`, `volumes`; did you mean cpus?",
            ),
            (
                "cpus = 2\n[[volumes]]\nhost = \"/a\"\ngest = \"/b\"\nsize = \"1G\"\n",
                "cannot read runtime.toml: line 4, column 1: unknown field `gest`, expected one of `host`, `guest`, `size`; did you mean guest?",
            ),
            (
                "memory = \"1G\"\n",
                "cannot read runtime.toml: line 1, column 10: invalid type: string \"1G\", expected u32",
            ),
            (
                "[[volumes]]\nhost = \"/a\"\nguest = \"/b\"\n",
                "cannot read runtime.toml: line 1, column 1: missing field `size`",
            ),
        ] {
            assert_eq!(parse("runtime.toml", text).unwrap_err().message, wanted);
        }
        let error =
            parse("runtime.toml", "[[volumes]]\nhost = \"a\"\nguest = \"/b\"\nsize = \"1G\"\n");
        assert!(error.unwrap_err().to_string().contains("runtime.toml"));
    }

    #[test]
    fn a_volume_is_two_absolute_paths_and_a_size() {
        assert_eq!(volume("/data:/mnt/data:10G").size, Mib(10 << 10));
        assert_eq!(volume("/a:/b:512MiB").size, Mib(512));
        for bad in [
            "",
            "/a:/b",
            "/a:/b:1G:x",
            "a:/b:1G",
            "/a:b:1G",
            "/a:/:1G",
            "/a:/../b:1G",
            "/a:/b:0G",
            "/a:/b:10",
            "/a:/b:G",
            "/a:/b:10K",
            "/a:/b:5000T",
            "/a:/b\n:1G",
        ] {
            assert_eq!(bad.parse::<VolumeAsk>().unwrap_err().kind, ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn a_volume_is_named_by_its_directory_alone() {
        let key = |text: &str| volume(text).key();
        assert_eq!(key("/data:/mnt/data:10G"), key("/data/:/elsewhere:1G"));
        assert_ne!(key("/data:/mnt/data:10G"), key("/data2:/mnt/data:10G"));
        assert!(key("/data:/b:1G").bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn two_volumes_in_one_place_are_refused() {
        for other in ["/a:/c:1G", "/b:/x:1G"] {
            let volumes = vec![volume("/a:/x:1G"), volume(other)];
            let asked = DevAsk { volumes, ..DevAsk::default() };
            assert_eq!(DevAsk::read(asked, None).unwrap_err().kind, ErrorKind::Invalid);
        }
    }
}
