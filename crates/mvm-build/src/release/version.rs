//! The version of a release, and which of two is the newer one: three numbers and, before a release
//! is final, a hyphen and identifiers, ordered as Semantic Versioning 2.0.0 orders them (item 11).
//! Build metadata is not written.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: [u32; 3],
    before: Vec<Identifier>,
}

/// One part of what stands behind the hyphen. Numbers come before words, as they are declared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u32),
    Word(String),
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a version like 1.2.3 or 1.2.3-rc.1: {text:?}")]
pub struct InvalidVersion {
    text: String,
}

impl FromStr for Version {
    type Err = InvalidVersion;

    /// `1.2.3`, `1.2.3-rc.1`, or either with a `v` in front, as tags have it.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let invalid = || InvalidVersion { text: text.chars().take(80).collect() };
        let bare = text.strip_prefix('v').unwrap_or(text);
        let (numbers, before) = match bare.split_once('-') {
            Some((numbers, before)) => (numbers, before.split('.').collect()),
            None => (bare, Vec::new()),
        };
        let numbers: Option<Vec<u32>> = numbers.split('.').map(number).collect();
        let numbers = numbers.and_then(|all| all.try_into().ok()).ok_or_else(invalid)?;
        let before: Option<Vec<_>> = before.into_iter().map(identifier).collect();
        Ok(Self { numbers, before: before.ok_or_else(invalid)? })
    }
}

/// Digits without a leading zero.
fn number(text: &str) -> Option<u32> {
    let is_plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn identifier(text: &str) -> Option<Identifier> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return number(text).map(Identifier::Number);
    }
    let is_word = text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_word.then(|| Identifier::Word(text.to_owned()))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (index, part) in self.before.iter().enumerate() {
            f.write_str(if index == 0 { "-" } else { "." })?;
            match part {
                Identifier::Number(number) => write!(f, "{number}")?,
                Identifier::Word(word) => f.write_str(word)?,
            }
        }
        Ok(())
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // What has identifiers comes before what has none.
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| self.before.is_empty().cmp(&other.before.is_empty()))
            .then_with(|| self.before.cmp(&other.before))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn versions_are_ordered_as_semantic_versioning_orders_them() {
        let sorted = [
            "0.1.0",
            "0.1.9",
            "0.1.10",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
        ];
        let all: Vec<Version> = sorted.iter().map(|text| text.parse().unwrap()).collect();
        assert!(all.is_sorted_by(|one, two| one < two));
        let written: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(written, sorted);
    }

    #[test]
    fn what_is_no_version_is_refused_and_a_tag_is_one() {
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "1.2.x",
            "01.2.3",
            "1.2.3-",
            "1.2.3-a/b",
            "1.2.3+b",
            "+1.2.3",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        assert_eq!("v1.2.3".parse::<Version>().unwrap().to_string(), "1.2.3");
    }
}
