//! `header.json` of what lies on disk: JSON of a bounded length, with the version of its format.
//!
//! Its SHA-256 binds everything else to it. It refuses to know what a header says.

use std::{fs::File, io::Read, ops::RangeInclusive, path::Path};

use ring::digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::{Act, Error};

/// The longest header in bytes; a longer one is not understood.
const MAX_LENGTH: u64 = 16 << 10;

#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// The bytes of a header.
pub(super) fn encode(header: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut text = serde_json::to_vec_pretty(header)
        .map_err(|error| Error::Conflict(format!("cannot write the header: {error}")))?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a header whose schema is one of the `known`; also returns its SHA-256.
///
/// # Errors
/// `Integrity` when it is too long, of another schema or makes no sense.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    known: RangeInclusive<u32>,
) -> Result<(T, [u8; 32]), Error> {
    let text = text(path)?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(Error::integrity(path, "it is longer than any header"));
    }
    let damaged = |error: serde_json::Error| Error::integrity(path, error.to_string());
    let Version { schema } = serde_json::from_slice(&text).map_err(damaged)?;
    if !known.contains(&schema) {
        let (oldest, newest) = known.into_inner();
        let known = if oldest == newest {
            format!("{newest} is known")
        } else {
            format!("{oldest} to {newest} are known")
        };
        return Err(Error::integrity(path, format!("it has schema {schema}, and {known}")));
    }
    let header = serde_json::from_slice(&text).map_err(damaged)?;
    Ok((header, sha256(&text)))
}

/// The bytes of a header, whatever it says; no more than one over [`MAX_LENGTH`].
pub(super) fn text(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).act("open", path)?;
    let mut text = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut text).act("read", path)?;
    Ok(text)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::fs;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Manifest {
        schema: u32,
        name: String,
    }

    fn refused(text: &[u8], known: RangeInclusive<u32>) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("header.json");
        fs::write(&path, text).unwrap();
        let refused = read::<Manifest>(&path, known).unwrap_err();
        if let Error::Integrity { reason, .. } = refused { reason } else { refused.to_string() }
    }

    #[test]
    fn what_was_written_is_read_back_with_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("header.json");
        let manifest = Manifest { schema: 2, name: "x".to_owned() };
        let text = encode(&manifest).unwrap();
        fs::write(&path, &text).unwrap();
        assert_eq!(read(&path, 1..=2).unwrap(), (manifest, sha256(&text)));
    }

    #[test]
    fn another_schema_is_named_whatever_else_it_says() {
        let text = br#"{"schema": 4, "surprise": true}"#;
        assert_eq!(refused(text, 2..=3), "it has schema 4, and 2 to 3 are known");
        assert_eq!(refused(text, 1..=1), "it has schema 4, and 1 is known");
    }

    #[test]
    fn a_header_that_is_too_long_is_refused_even_if_it_makes_sense() {
        let mut text = encode(&Manifest { schema: 1, name: String::new() }).unwrap();
        text.resize(16 << 10, b' ');
        assert!(refused(&text, 2..=2).contains("schema"));
        text.push(b' ');
        assert_eq!(refused(&text, 1..=1), "it is longer than any header");
    }
}
