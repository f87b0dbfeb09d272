//! Where the secrets of a tenant are, one by one: the table `[secrets]` of a TOML file, as in a
//! `deploy.toml`. It reads places, and refuses to know a value.
//!
//! ```toml
//! [secrets]
//! api = { file = "./secrets/api.key" }
//! "mail.token" = { env = "MAIL_TOKEN" }
//! ```

use std::{collections::BTreeMap, fs, path::Path};

use mvm_core::{
    error::{Error, ErrorKind},
    secrets::{SecretsSource, ValueSource, is_key},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    secrets: BTreeMap<String, ValueSource>,
    /// Of a deployment; nothing of it is a secret.
    #[serde(default, rename = "overrides")]
    _overrides: toml::Table,
}

/// The places that a file names, those of files by absolute path.
///
/// # Errors
/// `NotFound` when there is no such file, `Invalid` with line and key when it makes no sense.
pub fn read(file: &Path) -> Result<SecretsSource, Error> {
    let what = || format!("cannot take secrets from the places in {}", file.display());
    let text = fs::read_to_string(file).map_err(|error| {
        let kind = match error.kind() == std::io::ErrorKind::NotFound {
            true => ErrorKind::NotFound,
            false => ErrorKind::Invalid,
        };
        Error::new(kind, what()).because(&error)
    })?;
    let places: Places = toml::from_str(&text).map_err(|error| {
        // The parser's whole words quote the line, which may hold a value that belongs elsewhere.
        let line = error.span().and_then(|span| text.get(..span.start));
        let line = line.map_or(1, |before| before.matches('\n').count() + 1);
        Error::new(ErrorKind::Invalid, format!("{}: line {line} makes no sense", what()))
            .hint("write [secrets] and below it KEY = { file = \"PATH\" } or { env = \"NAME\" }")
    })?;
    let mut each = BTreeMap::new();
    for (key, place) in places.secrets {
        if !is_key(&key) {
            let message = format!("{}: {key:?} is not the key of a secret", what());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let place = match place {
            ValueSource::File(path) => {
                let beside = file.parent().unwrap_or_else(|| Path::new("")).join(path);
                let absolute = std::path::absolute(beside);
                ValueSource::File(absolute.map_err(|error| {
                    Error::new(ErrorKind::Invalid, format!("{}: the file of {key}", what()))
                        .because(&error)
                })?)
            }
            ValueSource::Env(name) => ValueSource::Env(name),
        };
        each.insert(key, place);
    }
    Ok(SecretsSource::Each(each))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    fn of(text: &str) -> (tempfile::TempDir, Result<SecretsSource, Error>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deploy.toml");
        fs::write(&file, text).unwrap();
        let read = read(&file);
        (dir, read)
    }

    #[test]
    fn files_are_beside_the_file_that_names_them() {
        let (dir, source) = of(
            "[secrets]\na = { file = \"./s/a\" }\n\"b.c\" = { env = \"B\" }\n[overrides.w]\nmem_mib = 1",
        );
        let Ok(SecretsSource::Each(each)) = source else { unreachable!("{source:?}") };
        assert_eq!(each.get("a"), Some(&ValueSource::File(dir.path().join("s/a"))));
        assert_eq!(each.get("b.c"), Some(&ValueSource::Env("B".to_owned())));
    }

    #[test]
    fn a_value_in_the_place_of_a_place_is_refused_and_not_quoted() {
        for wrong in [
            "[secrets]\na = \"hunter2\"",
            "[secrets]\n\"a b\" = { env = \"B\" }",
            "[secrets]\na = { env = \"B\", file = \"c\" }",
            "[secret]\na = { env = \"B\" }",
        ] {
            let refused = of(wrong).1.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Invalid, "{wrong}");
            assert!(!format!("{refused:?} {refused}").contains("hunter2"), "{refused:?}");
        }
    }
}
