//! Scripts that run in a test host, and what their first comment lines ask for.
//!
//! ```text
//! # tier: ci         run in every `cargo xtask ci` (the default), or only in `full`
//! # minutes: 5       the deadline (the default)
//! # hosts: 1         how many hosts; the script runs on host1 (the default is 1)
//! # brings: debian   besides the image `default` the image `debian`, which has Debian's own kernel
//! # brings: builder  besides it the image `builder`, in which flakes are built
//! # brings: packages in /srv/packages the Debian packages of the image `default`
//! # brings: release  in /root/release a release of the programs that the host has, and its public key
//! # brings: debian builder packages
//! #                  several of them; the builder then has Debian's kernel too, as `debian-builder`
//! # resets: 2        the script is run three times, with 0, 1 and 2 as its argument; in between the
//! #                  host is reset, with whatever is still at work in it (the default is 0)
//! ```
//! Refuses a header it does not understand, so that a typing error is not a skipped test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Act, Error, Result};

/// When a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// In `ci` and in `full`.
    Ci,
    /// Only in `full`, or by name.
    Full,
}

/// What a script asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// When it runs.
    pub(crate) tier: Tier,
    /// How long it may take.
    pub(crate) deadline: Duration,
    /// How many hosts it needs, 1 to 9.
    pub(crate) hosts: u8,
    /// What it finds in its host.
    pub(crate) load: Load,
    /// How often its host is reset.
    pub(crate) resets: u8,
}

/// What a script finds in its host beside the programs and the image `default` with the guest kernel of
/// the tests; empty for nothing.
pub(crate) type Load = BTreeSet<Brought>;

/// Something that not every script needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Brought {
    /// The image `debian`: the default one with Debian's own kernel and an initramfs, as the product
    /// makes it.
    Debian,
    /// The image `builder`; with [`Self::Debian`] also `debian-builder`.
    Builder,
    /// The packages of the default image.
    Packages,
    /// A signed release of these very programs.
    Release,
}

impl Brought {
    const ALL: [(&'static str, Self); 4] = [
        ("debian", Self::Debian),
        ("builder", Self::Builder),
        ("packages", Self::Packages),
        ("release", Self::Release),
    ];
}

/// One script.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Its file name without `.sh`.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// What it asks for.
    pub(crate) header: Header,
}

/// The scripts of a directory, by name; none when there is no such directory.
pub(crate) fn list(dir: &Path) -> Result<Vec<Script>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut scripts = Vec::new();
    for entry in fs::read_dir(dir).act(|| format!("read {}", dir.display()))? {
        let path = entry.act(|| format!("read {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            scripts.push(read(path)?);
        }
    }
    scripts.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(scripts)
}

/// One script by its file.
pub(crate) fn read(path: PathBuf) -> Result<Script> {
    let text = fs::read_to_string(&path).act(|| format!("read {}", path.display()))?;
    let header =
        parse(&text).map_err(|why| Error::refused(format!("{}: {why}", path.display())))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Script { name, path, header })
}

/// Reads the comment lines up to the first line that is none.
fn parse(text: &str) -> std::result::Result<Header, String> {
    let mut header = Header {
        tier: Tier::Ci,
        deadline: Duration::from_secs(300),
        hosts: 1,
        load: Load::new(),
        resets: 0,
    };
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        let Some((key, value)) = line.trim_start_matches('#').trim().split_once(':') else {
            continue;
        };
        let value = value.trim();
        let number = || value.parse::<u8>().ok().filter(|number| *number > 0);
        match key {
            "tier" => {
                header.tier = match value {
                    "ci" => Tier::Ci,
                    "full" => Tier::Full,
                    other => return Err(format!("tier {other} is neither ci nor full")),
                }
            }
            "minutes" => {
                let minutes = number().ok_or_else(|| format!("minutes: {value}"))?;
                header.deadline = Duration::from_secs(60 * u64::from(minutes));
            }
            "hosts" => {
                header.hosts = number()
                    .filter(|number| *number <= 9)
                    .ok_or_else(|| format!("hosts: {value} is not 1 to 9"))?;
            }
            "resets" => {
                header.resets =
                    number().ok_or_else(|| format!("resets: {value} is not 1 to 255"))?;
            }
            "brings" => {
                for word in value.split_whitespace() {
                    let known = Brought::ALL.iter().find(|(name, _)| *name == word);
                    let known = known.ok_or_else(|| {
                        let names = Brought::ALL.map(|(name, _)| name).join(", ");
                        format!("brings: {word} is none of {names}")
                    })?;
                    header.load.insert(known.1);
                }
            }
            _ => {}
        }
    }
    if header.resets > 0 && header.hosts > 1 {
        return Err("only a host that is alone can be reset".into());
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_without_a_header_runs_in_ci_on_one_host_for_five_minutes() {
        let header = Header {
            tier: Tier::Ci,
            deadline: Duration::from_secs(300),
            hosts: 1,
            load: Load::new(),
            resets: 0,
        };
        assert_eq!(parse("#!/bin/bash\n# About: nothing\nset -e\n"), Ok(header));
    }

    #[test]
    fn the_header_ends_at_the_first_line_of_code() {
        let text = "#!/bin/bash\n# tier: full\n# minutes: 12\n# hosts: 3\n# brings: packages debian\nset -e\n# tier: ci\n";
        let header = Header {
            tier: Tier::Full,
            deadline: Duration::from_secs(720),
            hosts: 3,
            load: [Brought::Debian, Brought::Packages].into(),
            resets: 0,
        };
        assert_eq!(parse(text), Ok(header));
    }

    #[test]
    fn a_typing_error_in_a_header_is_refused() {
        assert!(parse("# tier: cii\n").is_err());
        assert!(parse("# minutes: soon\n").is_err() && parse("# minutes: 0\n").is_err());
        assert!(parse("# hosts: 10\n").is_err() && parse("# brings: debain\n").is_err());
        assert!(parse("# resets: 0\n").is_err() && parse("# resets: 1\n# hosts: 2\n").is_err());
    }
}
