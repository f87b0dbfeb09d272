//! The `Sources` port: flakes that are directories of this host, and build logs.
//!
//! A directory is read once, with the rights of this process, and what was read is what is hashed, checked
//! and sent: nothing that changes meanwhile is built under another content's key. What is in a flake's Nix
//! files is not known here, but for `flake.lock`, which tells whether it has inputs, and
//! `mvm-profiles.toml`.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Cursor, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use mvm_build::ContentHash;
use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, InvalidId, PoolRef, RequestKey},
    layout::data,
    pool::Role,
    port::{Flake, FlakeSource, Sources},
};
use serde::Deserialize;

use crate::profiles;

/// The most that a flake's files may hold together, in bytes.
const MOST_BYTES: usize = 64 << 20;
/// The most files of a flake.
const MOST_FILES: usize = 20_000;
/// What version control keeps is no part of a flake.
const LEFT_OUT: [&str; 2] = [".git", ".jj"];
/// When every file of a flake was written, in seconds: its own time has no part in a build.
const TIME: u64 = 1;

/// Reads flakes with the rights of this process.
pub(crate) struct LocalSources {
    data_dir: PathBuf,
}

/// A file of a flake.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Directory,
    Symlink(PathBuf),
    File { is_program: bool, bytes: Vec<u8> },
}

/// The files of a flake by their paths in it.
type Pieces = BTreeMap<PathBuf, Piece>;

impl LocalSources {
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self { data_dir }
    }
}

impl Sources for LocalSources {
    fn flake(
        &self,
        reference: &str,
        profile: &str,
        role: &Role,
        tools: &ImageHash,
    ) -> Result<Flake, Error> {
        let asked = format!("{tools} {profile} {role}");
        let Some(directory) = directory(reference)? else {
            let source = FlakeSource::Reference(reference.to_owned());
            let key =
                is_pinned(reference).then(|| key(&format!("{asked} {reference}"))).transpose()?;
            return Ok(Flake { source, key });
        };
        let pieces = gather(&directory)?;
        if !matches!(pieces.get(Path::new("flake.nix")), Some(Piece::File { .. })) {
            let message = format!("{} is no flake: it has no flake.nix", directory.display());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if let Some(Piece::File { bytes, .. }) = pieces.get(Path::new(profiles::FILE)) {
            let has = |path: &Path| pieces.contains_key(path);
            profiles::check(bytes, &has, profile, role)?;
        }
        let has_inputs = match pieces.get(Path::new("flake.lock")) {
            Some(Piece::File { bytes, .. }) => has_inputs(bytes)?,
            Some(Piece::Directory | Piece::Symlink(_)) | None => false,
        };
        let files = pack(&pieces).map_err(|error| {
            Error::new(ErrorKind::Failed, format!("cannot pack {}", directory.display()))
                .because(&error)
        })?;
        let key = key(&format!("{asked} {}", ContentHash::of(&files)))?;
        let files = Box::new(Cursor::new(files));
        Ok(Flake { source: FlakeSource::Directory { files, has_inputs }, key: Some(key) })
    }

    fn build_log(&self, pool: &PoolRef) -> Result<(Box<dyn Write + Send>, String), Error> {
        let path = self.data_dir.join(data::build_log(pool));
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Failed, format!("cannot write {}", path.display()))
                .because(&error)
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = fs::File::create(&path).map_err(failed)?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok((Box::new(file), path.display().to_string()))
    }
}

fn key(text: &str) -> Result<RequestKey, Error> {
    let hash = ContentHash::of(text.as_bytes()).to_string();
    hash.parse().map_err(|error: InvalidId| {
        Error::new(ErrorKind::Failed, "cannot name a build").because(&error)
    })
}

/// The directory that a reference names on this host; none for what a builder fetches.
fn directory(reference: &str) -> Result<Option<PathBuf>, Error> {
    let path = reference.strip_prefix("path:").unwrap_or(reference);
    let wrong = |what: &str, hint: &str| {
        Err(Error::new(ErrorKind::Invalid, format!("{reference} {what}")).hint(hint))
    };
    if reference.contains('#') {
        return wrong("names an attribute", "which one is built follows from role and profile");
    }
    if path == reference && !reference.starts_with(['/', '.']) {
        return Ok(None);
    }
    if !path.starts_with('/') {
        return wrong("is no absolute path", "name the flake's directory from / on");
    }
    if path.contains('?') {
        return wrong("has more than a path", "name the directory that has the flake.nix");
    }
    Ok(Some(PathBuf::from(path)))
}

/// Whether a reference names one commit, so that it can only ever mean the same.
fn is_pinned(reference: &str) -> bool {
    let is_commit = |text: &str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let (path, query) = reference.split_once('?').unwrap_or((reference, ""));
    let mut parameters = query.split('&').filter_map(|one| one.split_once('='));
    parameters.any(|(name, value)| name == "rev" && is_commit(value))
        || (path.starts_with("github:") && path.splitn(3, '/').nth(2).is_some_and(is_commit))
}

/// Reads everything below a directory, within bounds.
fn gather(root: &Path) -> Result<Pieces, Error> {
    let failed = |path: &Path, error: &io::Error| {
        let kinds = [
            (io::ErrorKind::NotFound, ErrorKind::NotFound),
            (io::ErrorKind::PermissionDenied, ErrorKind::Permission),
        ];
        let known = kinds.into_iter().find(|(kind, _)| *kind == error.kind());
        let kind = known.map_or(ErrorKind::Failed, |(_, kind)| kind);
        Error::new(kind, format!("cannot read {}", path.display())).because(error)
    };
    let large = || {
        let message = format!(
            "{} is too large for a flake: at most {MOST_FILES} files of {} MiB together",
            root.display(),
            MOST_BYTES >> 20
        );
        Error::new(ErrorKind::Invalid, message).hint("keep what is not built from out of it")
    };
    let (mut pieces, mut bytes) = (Pieces::new(), 0);
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        let directory = root.join(&below);
        let wrap = |error: io::Error| failed(&directory, &error);
        for entry in fs::read_dir(&directory).map_err(wrap)? {
            let entry = entry.map_err(wrap)?;
            let name = entry.file_name();
            if below.as_os_str().is_empty() && LEFT_OUT.iter().any(|out| name == *out) {
                continue;
            }
            let (path, place) = (entry.path(), below.join(&name));
            let piece = read(&path).map_err(|error| failed(&path, &error))?;
            match &piece {
                Some(Piece::Directory) => waiting.push(place.clone()),
                Some(Piece::File { bytes: content, .. }) => bytes += content.len(),
                Some(Piece::Symlink(_)) | None => {}
            }
            pieces.extend(piece.map(|piece| (place, piece)));
            if pieces.len() > MOST_FILES || bytes > MOST_BYTES {
                return Err(large());
            }
        }
    }
    Ok(pieces)
}

/// One file; none of what a flake cannot have: sockets, pipes, devices.
fn read(path: &Path) -> io::Result<Option<Piece>> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        return Ok(Some(Piece::Directory));
    }
    if metadata.is_symlink() {
        return Ok(Some(Piece::Symlink(fs::read_link(path)?)));
    }
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, most), &mut bytes)?;
    let is_program = metadata.permissions().mode() & 0o100 != 0;
    Ok(Some(Piece::File { is_program, bytes }))
}

/// A tar stream that follows from the pieces alone.
fn pack(pieces: &Pieces) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, piece) in pieces {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(TIME);
        header.set_size(0);
        match piece {
            Piece::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                archive.append_data(&mut header, path, io::empty())?;
            }
            Piece::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, path, target)?;
            }
            Piece::File { is_program, bytes } => {
                header.set_mode(if *is_program { 0o755 } else { 0o644 });
                header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
                archive.append_data(&mut header, path, bytes.as_slice())?;
            }
        }
    }
    archive.into_inner()
}

/// As much of `flake.lock` as counts here.
#[derive(Debug, Deserialize)]
struct Lock {
    nodes: BTreeMap<String, Locked>,
    root: String,
}

#[derive(Debug, Deserialize)]
struct Locked {
    #[serde(default)]
    inputs: BTreeMap<String, serde::de::IgnoredAny>,
}

fn has_inputs(lock: &[u8]) -> Result<bool, Error> {
    let lock: Lock = serde_json::from_slice(lock).map_err(|error| {
        Error::new(ErrorKind::Invalid, "cannot read the flake's flake.lock").because(&error)
    })?;
    Ok(lock.nodes.get(&lock.root).is_some_and(|root| !root.inputs.is_empty()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            place.write("flake.nix", "{ outputs = _: { }; }");
            place
        }
        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fn flake(&self) -> Result<Flake, Error> {
            self.asked("minimal", &Role::Worker)
        }
        fn asked(&self, profile: &str, role: &Role) -> Result<Flake, Error> {
            let sources = LocalSources::new(self.0.path().join("data"));
            sources.flake(self.0.path().to_str().unwrap(), profile, role, &tools("ab"))
        }
        fn key(&self) -> RequestKey {
            self.flake().unwrap().key.unwrap()
        }
    }

    fn tools(pair: &str) -> ImageHash {
        pair.repeat(32).parse().unwrap()
    }

    #[test]
    fn a_flake_is_known_by_its_content() {
        let (one, other) = (Place::new(), Place::new());
        assert_eq!(one.key(), other.key(), "where it lies and when it was written do not count");
        other.write("a/b.sh", "x");
        assert_ne!(one.key(), other.key());
        one.write("a/b.sh", "x");
        assert_eq!(one.key(), other.key());
        let program = one.0.path().join("a/b.sh");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(one.key(), other.key(), "whether a file is a program counts");
    }

    #[test]
    fn what_is_asked_of_a_flake_counts_and_what_version_control_keeps_does_not() {
        let place = Place::new();
        let key = place.key();
        assert_ne!(place.asked("other", &Role::Worker).unwrap().key.unwrap(), key);
        assert_ne!(place.asked("minimal", &Role::Gateway).unwrap().key.unwrap(), key);
        place.write(".git/HEAD", "x");
        assert_eq!(place.key(), key);
    }

    #[test]
    fn a_directory_without_a_flake_is_none() {
        let place = Place(tempfile::tempdir().unwrap());
        assert_eq!(place.flake().unwrap_err().kind, ErrorKind::Invalid);
        let path = place.0.path().join("absent");
        let sources = LocalSources::new(path.clone());
        let error = sources.flake(path.to_str().unwrap(), "minimal", &Role::Worker, &tools("ab"));
        assert_eq!(error.map(drop).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn only_a_flake_with_inputs_is_built_with_a_network() {
        let place = Place::new();
        let inputs = |flake: Flake| match flake.source {
            FlakeSource::Directory { has_inputs, .. } => has_inputs,
            FlakeSource::Reference(_) => unreachable!("it is a directory"),
        };
        assert!(!inputs(place.flake().unwrap()));
        place.write("flake.lock", r#"{"nodes":{"root":{}},"root":"root","version":7}"#);
        assert!(!inputs(place.flake().unwrap()));
        let lock = r#"{"nodes":{"root":{"inputs":{"a":"a"}},"a":{}},"root":"root","version":7}"#;
        place.write("flake.lock", lock);
        assert!(inputs(place.flake().unwrap()));
        place.write("flake.lock", "{");
        assert_eq!(place.flake().map(drop).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn a_reference_has_a_key_only_when_it_names_a_commit() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for pinned in
            [format!("github:a/b/{commit}"), format!("git+https://x/y?ref=m&rev={commit}")]
        {
            assert!(is_pinned(&pinned), "{pinned}");
        }
        for moving in ["github:a/b", "github:a/b/main", "github:a/b?rev=abc123", "git+https://x/y"]
        {
            assert!(!is_pinned(moving), "{moving}");
        }
        assert_eq!(directory("github:a/b").unwrap(), None);
        assert_eq!(directory("path:/srv/a").unwrap(), Some("/srv/a".into()));
        for wrong in ["./a", "path:a", "/srv/a?dir=b", "/srv/a#b", "github:a/b#c"] {
            assert_eq!(directory(wrong).unwrap_err().kind, ErrorKind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn a_flake_that_does_not_have_the_profile_says_which_it_has() {
        let place = Place::new();
        place.write("a.nix", "{}");
        place.write(
            "mvm-profiles.toml",
            "[meta]\nversion = 1\n[profiles.minimal]\nmodule = \"a.nix\"\n",
        );
        place.flake().unwrap();
        let error = place.asked("large", &Role::Worker).map(drop).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.to_string().contains("minimal"), "{error}");
    }
}
