//! Where templates are pushed to and pulled from, and who asks there.
//!
//! ```toml
//! [storage]
//! url = "s3://bucket/prefix"
//! endpoint = "https://s3.example.com"
//! region = "eu-central-1"
//! credentials_file = "/root/.aws/credentials"
//! ```
//! The variables and the file of credentials are those of other programs for such storages. A key is read when
//! it is needed and is no setting: nothing shows it.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use mvm_build::fetch::bucket::{AccessKey, BucketConfig};
use mvm_core::error::{Error, ErrorKind};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{settings::Settings, variable};

/// The region unless told otherwise.
const REGION: &str = "us-east-1";

/// The table `[storage]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageTable {
    url: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    credentials_file: Option<PathBuf>,
}

/// An S3-compatible storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// `s3://BUCKET/PREFIX`, when a command names none (`storage.url`).
    pub url: Option<String>,
    /// Its endpoint (`AWS_ENDPOINT_URL`); that of AWS in the region if absent.
    pub endpoint: Option<String>,
    /// The region that requests are signed for (`AWS_REGION`).
    pub region: String,
    /// A file with a key, used without `AWS_ACCESS_KEY_ID` in the environment
    /// (`AWS_SHARED_CREDENTIALS_FILE`).
    pub credentials_file: PathBuf,
}

/// The settings about the storage of templates.
pub(super) fn read(all: &mut Settings<'_>, table: StorageTable) -> Result<Storage, Error> {
    let home = variable("HOME").filter(|home| home.starts_with('/'));
    let usual = Path::new(home.as_deref().unwrap_or("/root")).join(".aws/credentials");
    let path = |text: String| Ok(PathBuf::from(text));
    let url = all.named("storage.url").file(table.url).or_none();
    let endpoint = all.named("storage.endpoint").variable("AWS_ENDPOINT_URL", Ok)?;
    let endpoint = endpoint.file(table.endpoint).or_none();
    let region = all.named("storage.region").variable("AWS_REGION", Ok)?;
    let region = region.file(table.region).or(REGION.to_owned());
    let file = all.named("storage.credentials_file");
    let file = file.variable("AWS_SHARED_CREDENTIALS_FILE", path)?;
    let credentials_file = file.file(table.credentials_file).or(usual);
    Ok(Storage { url, endpoint, region, credentials_file })
}

impl Storage {
    /// The bucket of a command that may name one.
    ///
    /// # Errors
    /// `Usage` when there is none; `Permission` without a key, or when others may read the file with it;
    /// `Invalid` when that makes no sense.
    pub(crate) fn bucket(&self, named: Option<&str>) -> Result<BucketConfig, Error> {
        let url = named.or(self.url.as_deref()).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "no storage is named")
                .hint("name one, as s3://BUCKET/PREFIX, or set storage.url in config.toml")
        })?;
        let endpoint = self.endpoint.clone();
        Ok(BucketConfig {
            url: url.to_owned(),
            endpoint: endpoint
                .unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", self.region)),
            region: self.region.clone(),
            key: self.key(&variable)?,
            certificates: variable("SSL_CERT_FILE").map(PathBuf::from),
        })
    }

    fn key(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<AccessKey, Error> {
        let secret = |name| variable(name).filter(|text| !text.is_empty()).map(Zeroizing::new);
        if let Some(id) = variable("AWS_ACCESS_KEY_ID").filter(|id| !id.is_empty()) {
            let key = secret("AWS_SECRET_ACCESS_KEY").ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "AWS_SECRET_ACCESS_KEY is not set")
                    .hint("AWS_ACCESS_KEY_ID is, and one needs the other")
            })?;
            return Ok(AccessKey { id, secret: key, token: secret("AWS_SESSION_TOKEN") });
        }
        let path = &self.credentials_file;
        let about = |kind, what: &str| Error::new(kind, format!("{} {what}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::Permission, "there is no key for the storage")
                    .hint(format!(
                        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write {}",
                        path.display()
                    )));
            }
            Err(error) => return Err(about(ErrorKind::Failed, "cannot be read").because(&error)),
        };
        let mode = std::fs::metadata(path).map(|facts| facts.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            return Err(about(ErrorKind::Permission, "has a key, and others may read it")
                .hint(format!("make it its owner's: chmod 600 {}", path.display())));
        }
        parse(&text).ok_or_else(|| {
            about(ErrorKind::Invalid, "has no key in its section [default]")
                .hint("write aws_access_key_id = … and aws_secret_access_key = … below [default]")
        })
    }
}

/// The key in the section `[default]`.
fn parse(text: &str) -> Option<AccessKey> {
    let mut is_here = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            is_here = line == "[default]";
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_here) else { continue };
        let value = value.trim().to_owned();
        match name.trim() {
            "aws_access_key_id" => id = Some(value),
            "aws_secret_access_key" => secret = Some(Zeroizing::new(value)),
            "aws_session_token" => token = Some(Zeroizing::new(value)),
            _ => {}
        }
    }
    Some(AccessKey { id: id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn storage(file: PathBuf) -> Storage {
        let region = REGION.to_owned();
        Storage { url: None, endpoint: None, region, credentials_file: file }
    }

    #[test]
    fn the_environment_comes_before_a_file_that_only_its_owner_may_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let storage = storage(path.clone());
        let nothing = |_: &str| None;
        let kind = |storage: &Storage| storage.key(&nothing).err().unwrap().kind;
        assert_eq!(kind(&storage), ErrorKind::Permission, "there is none");
        let text = "[other]\naws_access_key_id = o\n[default]\naws_access_key_id=f\n\
                    aws_secret_access_key = s\n";
        std::fs::write(&path, text).unwrap();
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode(0o644)).unwrap();
        assert_eq!(kind(&storage), ErrorKind::Permission, "others may read it");
        std::fs::set_permissions(&path, mode(0o600)).unwrap();
        assert_eq!(storage.key(&nothing).unwrap().id, "f");
        let given = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("e".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("t".to_owned()),
            _ => None,
        };
        let key = storage.key(&given).unwrap();
        assert_eq!((key.id.as_str(), key.secret.as_str()), ("e", "t"));
        std::fs::write(&path, "[default]\n").unwrap();
        assert_eq!(kind(&storage), ErrorKind::Invalid);
    }

    #[test]
    fn a_command_without_a_storage_says_so() {
        let refused = storage("/nowhere".into()).bucket(None).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::Usage);
    }
}
