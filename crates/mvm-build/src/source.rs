//! `Source`: one place that has certain bytes, written as a scheme and a path.
//!
//! A source says *where*, never *what*: the hash in the catalogue decides whether the bytes are
//! the right ones. It knows no host name; `fetch` turns a source into a transfer.
//!
//! ```text
//! github:OWNER/REPO@TAG/FILE[#MEMBER]      a file of a release, or a member of that tar.gz
//! pypi:NAME==VERSION/MEMBER                a file inside a wheel
//! deb:NAME=VERSION                         a Debian package, as the configured apt knows it
//! https://… http://…                       the file itself
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place to get bytes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// A file of a release of a forge's project.
    Github {
        /// The account that owns the repository.
        owner: String,
        /// The repository.
        repo: String,
        /// The release's tag.
        tag: String,
        /// The file's name in the release.
        file: String,
        /// When the file is a tar.gz: the path of the wanted file inside.
        member: Option<String>,
    },
    /// One file inside a wheel that the configured pip can download.
    Pypi {
        /// The distribution's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The path inside the wheel.
        member: String,
    },
    /// A package that the configured apt can download.
    Deb {
        /// The package's name.
        package: String,
        /// Its exact version.
        version: String,
    },
    /// A plain address.
    Url(String),
}

/// Why a text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// The part before the first colon is none of the known schemes.
    #[error("unknown scheme in source {0:?}; known are github:, pypi:, deb:, https:, http:")]
    Scheme(String),
    /// The part after the scheme lacks something.
    #[error("source {text:?} is not of the form {form}")]
    Form {
        /// The text given.
        text: String,
        /// What it must look like.
        form: &'static str,
    },
    /// A name or path holds a character that could be read as something else by a tool.
    #[error("source {0:?} holds a character that is not allowed in a name or path")]
    Character(String),
}

const GITHUB_FORM: &str = "github:OWNER/REPO@TAG/FILE[#MEMBER]";
const PYPI_FORM: &str = "pypi:NAME==VERSION/MEMBER";
const DEB_FORM: &str = "deb:NAME=VERSION";

/// Names begin with a letter or digit, so that none can be taken for an option of a tool.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._~:".contains(&b))
}

fn is_member(text: &str) -> bool {
    !text.starts_with('/')
        && text.split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0'])
        })
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let (scheme, rest) =
            text.split_once(':').ok_or_else(|| InvalidSource::Scheme(text.to_owned()))?;
        let source = match scheme {
            "github" => github(text, rest)?,
            "pypi" => pypi(text, rest)?,
            "deb" => deb(text, rest)?,
            "https" | "http" => url(text, rest)?,
            _ => return Err(InvalidSource::Scheme(text.to_owned())),
        };
        if source.is_clean() { Ok(source) } else { Err(InvalidSource::Character(text.to_owned())) }
    }
}

fn form(text: &str, form: &'static str) -> InvalidSource {
    InvalidSource::Form { text: text.to_owned(), form }
}

fn github(text: &str, rest: &str) -> Result<Source, InvalidSource> {
    let bad = || form(text, GITHUB_FORM);
    let (project, path) = rest.split_once('@').ok_or_else(bad)?;
    let (owner, repo) = project.split_once('/').ok_or_else(bad)?;
    let (tag, file) = path.split_once('/').ok_or_else(bad)?;
    let (file, member) = match file.split_once('#') {
        Some((file, member)) => (file, Some(member.to_owned())),
        None => (file, None),
    };
    Ok(Source::Github {
        owner: owner.to_owned(),
        repo: repo.to_owned(),
        tag: tag.to_owned(),
        file: file.to_owned(),
        member,
    })
}

fn pypi(text: &str, rest: &str) -> Result<Source, InvalidSource> {
    let bad = || form(text, PYPI_FORM);
    let (package, rest) = rest.split_once("==").ok_or_else(bad)?;
    let (version, member) = rest.split_once('/').ok_or_else(bad)?;
    Ok(Source::Pypi {
        package: package.to_owned(),
        version: version.to_owned(),
        member: member.to_owned(),
    })
}

fn deb(text: &str, rest: &str) -> Result<Source, InvalidSource> {
    let (package, version) = rest.split_once('=').ok_or_else(|| form(text, DEB_FORM))?;
    Ok(Source::Deb { package: package.to_owned(), version: version.to_owned() })
}

fn url(text: &str, rest: &str) -> Result<Source, InvalidSource> {
    match rest.strip_prefix("//") {
        Some(address) if !address.is_empty() && !address.starts_with('/') => {
            Ok(Source::Url(text.to_owned()))
        }
        _ => Err(form(text, "https://HOST/PATH")),
    }
}

impl Source {
    fn is_clean(&self) -> bool {
        match self {
            Self::Github { owner, repo, tag, file, member } => {
                [owner, repo, tag, file].into_iter().all(|name| is_name(name))
                    && member.as_deref().is_none_or(is_member)
            }
            Self::Pypi { package, version, member } => {
                is_name(package) && is_name(version) && is_member(member)
            }
            Self::Deb { package, version } => is_name(package) && is_name(version),
            Self::Url(address) => address.bytes().all(|b| b.is_ascii_graphic()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Github { owner, repo, tag, file, member } => {
                write!(f, "github:{owner}/{repo}@{tag}/{file}")?;
                member.as_ref().map_or(Ok(()), |member| write!(f, "#{member}"))
            }
            Self::Pypi { package, version, member } => {
                write!(f, "pypi:{package}=={version}/{member}")
            }
            Self::Deb { package, version } => write!(f, "deb:{package}={version}"),
            Self::Url(address) => f.write_str(address),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = InvalidSource;

    fn try_from(text: String) -> Result<Self, InvalidSource> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn every_form_of_source_reads_back_what_it_wrote() {
        for text in [
            "github:firecracker-microvm/firecracker@v1.12.1/f.tgz#release/f-v1.12.1-x86_64",
            "github:a/b@v1/file",
            "pypi:some-thing==3.11.0/some_thing/bin/tool",
            "deb:libgmp10=2:6.2.1+dfsg1-1.1",
            "https://example.org/a/b?c=d",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_source_that_lacks_a_part_names_the_form() {
        for text in ["github:a/b/file", "pypi:x/y", "deb:", "deb:x", "https:/x", "https:///x"] {
            assert!(matches!(text.parse::<Source>(), Err(InvalidSource::Form { .. })), "{text}");
        }
        assert!(matches!("ftp://x/y".parse::<Source>(), Err(InvalidSource::Scheme(_))));
    }

    #[test]
    fn a_name_that_a_tool_could_misread_is_refused() {
        for text in [
            "deb:-oAPT::X=1",
            "deb:a b=1",
            "deb:x=",
            "pypi:x==1/../../etc/passwd",
            "github:a/b@v/../f",
        ] {
            assert!(matches!(text.parse::<Source>(), Err(InvalidSource::Character(_))), "{text}");
        }
    }
}
