#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::os::unix::fs::{PermissionsExt, symlink};

use flate2::{Compression, write::GzEncoder};
use mvm_build::ContentHash;

use super::*;

struct Silent;

impl Progress for Silent {
    fn report(&self, _step: &ProgressStep) {}
}

/// A directory with programs of version 0.1.0, and a mirror with releases.
struct World {
    base: tempfile::TempDir,
    key: keys::SigningKey,
}

/// Whether an entry of the archive leads out of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Good,
    Hostile,
}

fn program(says: &str) -> String {
    // What a release starts with is a program; a line for the kernel's own interpreter will do here.
    format!("#!/usr/bin/printf {says}\\n")
}

fn archive(version: &str, tree: Tree) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let top = format!("mvm-{version}-{}-linux", arch().unwrap().as_str());
    let mut add = |name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        for (to, from) in header.as_gnu_mut().unwrap().name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    };
    for name in release::PROGRAMS {
        add(&format!("{top}/bin/{name}"), &program(&format!("mvm {version}")));
    }
    if tree == Tree::Hostile {
        add(&format!("{top}/../../../out"), "out");
    }
    tar.into_inner().unwrap().finish().unwrap()
}

impl World {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let bin = base.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in release::PROGRAMS {
            let path = bin.join(name);
            fs::write(&path, program("mvm 0.1.0")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("mvm", bin.join("mvm-agentd")).unwrap();
        let key = keys::SigningKey::make(&base.path().join("release.key")).unwrap();
        Self { base, key }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    fn upgrade(&self) -> Upgrade {
        Upgrade {
            place: Place::of(&self.path("bin/mvm"), &self.path("dpkg")).unwrap(),
            own: "0.1.0".to_owned(),
            key: self.key.public(),
            mirror: Some(Mirror::Directory(self.path("mirror"))),
        }
    }

    /// Puts a release on the mirror, as the newest and under its version.
    fn release(&self, version: &str, tree: Tree) {
        let bytes = archive(version, tree);
        let file = format!("mvm-{version}-{}-linux.tar.gz", arch().unwrap().as_str());
        let sums = format!("{}  {file}\n", ContentHash::of(&bytes));
        for edition in [Edition::Latest, Edition::Exactly(version.parse().unwrap())] {
            let put = |name: &str, bytes: &[u8]| {
                let path = self.path("mirror").join(edition.path(name));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            };
            put(&file, &bytes);
            put(SUMS, sums.as_bytes());
            put(SIGNATURE, &self.key.sign_bytes(sums.as_bytes()));
        }
    }

    fn says(&self, name: &str) -> String {
        let output = tool::run(&self.path("bin").join(name), &[], b"", VERSION_WAIT).unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn install(&self) -> Result<UpgradeReport, Error> {
        self.upgrade().install(None, Replace::Older, &Silent)
    }

    /// Refuses, and everything is as it was.
    fn refuses(&self, kind: ErrorKind) -> Error {
        let refused = self.install().unwrap_err();
        assert_eq!(refused.kind, kind, "{refused}");
        assert_eq!(self.says("mvm"), "mvm 0.1.0");
        let left: Vec<_> = fs::read_dir(self.path("bin/.mvm")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!self.path("bin/mvm").is_symlink());
        refused
    }

    fn file(&self, name: &str) -> PathBuf {
        let name = if name == SUMS || name == SIGNATURE {
            return self.path("mirror").join(Edition::Latest.path(name));
        } else {
            format!("mvm-{name}-{}-linux.tar.gz", arch().unwrap().as_str())
        };
        self.path("mirror").join(Edition::Exactly("0.2.0".parse().unwrap()).path(&name))
    }
}

#[test]
fn a_newer_release_is_seen_installed_and_taken_back() {
    let world = World::new();
    world.release("0.2.0", Tree::Good);
    let seen = world.upgrade().check(None).unwrap();
    assert_eq!((seen.act, seen.asked.as_str()), (UpgradeAct::Available, "0.2.0"));
    assert!(!world.path("bin/.mvm").exists(), "looking changes nothing");
    let done = world.install().unwrap();
    assert_eq!((done.act, done.version.as_str()), (UpgradeAct::Installed, "0.2.0"));
    assert_eq!(done.former.as_deref(), Some("0.1.0"));
    for name in ["mvm", "mvm-agentd", "mvm-hostd", "mvm-shim"] {
        assert_eq!(world.says(name), "mvm 0.2.0", "{name}");
    }
    assert_eq!(world.install().unwrap().act, UpgradeAct::None);
    assert_eq!(world.upgrade().roll_back().unwrap().version, "0.1.0");
    assert_eq!(world.says("mvm"), "mvm 0.1.0");
    assert_eq!(world.upgrade().roll_back().unwrap().version, "0.2.0");
    assert_eq!(world.says("mvm-hostd"), "mvm 0.2.0");
}

#[test]
fn two_versions_are_kept_and_no_more() {
    let world = World::new();
    for version in ["0.2.0", "0.3.0", "0.4.0"] {
        world.release(version, Tree::Good);
        world.install().unwrap();
    }
    let kept: std::collections::BTreeSet<_> =
        fs::read_dir(world.path("bin/.mvm")).unwrap().map(|one| one.unwrap().file_name()).collect();
    let wanted = ["0.3.0~1", "0.4.0~1", "current", "former"];
    assert_eq!(kept, wanted.map(std::ffi::OsString::from).into());
}

#[test]
fn an_older_release_needs_force_or_the_former_version() {
    let world = World::new();
    world.release("0.0.9", Tree::Good);
    assert_eq!(world.upgrade().check(None).unwrap().act, UpgradeAct::None);
    world.refuses(ErrorKind::Conflict);
    let done = world.upgrade().install(None, Replace::Any, &Silent).unwrap();
    assert_eq!(done.version, "0.0.9");
    let again = world.upgrade().install(Some("0.0.9"), Replace::Any, &Silent).unwrap();
    assert_eq!((again.act, again.former.as_deref()), (UpgradeAct::Installed, Some("0.0.9")));
}

#[test]
fn what_is_not_signed_by_the_release_key_changes_nothing() {
    let world = World::new();
    world.release("0.2.0", Tree::Good);
    let other = keys::SigningKey::make(&world.path("other.key")).unwrap();
    let sums = fs::read(world.file(SUMS)).unwrap();
    for forged in [other.sign_bytes(&sums), vec![0; 64], Vec::new()] {
        fs::write(world.file(SIGNATURE), forged).unwrap();
        world.refuses(ErrorKind::Integrity);
    }
    world.release("0.2.0", Tree::Good);
    fs::write(world.file(SUMS), [&sums[..], b"\n"].concat()).unwrap();
    world.refuses(ErrorKind::Integrity);
    fs::remove_file(world.file(SIGNATURE)).unwrap();
    world.refuses(ErrorKind::Unavailable);
}

#[test]
fn a_changed_a_cut_and_a_missing_archive_change_nothing() {
    let world = World::new();
    world.release("0.2.0", Tree::Good);
    let whole = fs::read(world.file("0.2.0")).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bytes in [&changed[..], whole.get(..whole.len() / 2).unwrap(), &[]] {
        fs::write(world.file("0.2.0"), bytes).unwrap();
        world.refuses(ErrorKind::Integrity);
    }
    fs::remove_file(world.file("0.2.0")).unwrap();
    world.refuses(ErrorKind::Unavailable);
}

#[test]
fn a_signed_archive_that_leads_outside_changes_nothing() {
    let world = World::new();
    world.release("0.2.0", Tree::Hostile);
    world.refuses(ErrorKind::Integrity);
    assert!(!world.path("bin/out").exists() && !world.path("out").exists());
}

#[test]
fn another_release_under_the_asked_name_is_refused() {
    let world = World::new();
    world.release("0.2.0", Tree::Good);
    let downloads = world.path("mirror/releases/download");
    fs::rename(downloads.join("v0.2.0"), downloads.join("v0.3.0")).unwrap();
    let refused = world.upgrade().install(Some("0.3.0"), Replace::Any, &Silent).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Integrity, "{refused}");
    let refused = world.upgrade().check(Some("../x")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
}

#[test]
fn a_release_that_does_not_run_here_is_not_taken() {
    let world = World::new();
    world.release("0.2.0", Tree::Good);
    let bytes = archive("0.2.0", Tree::Good);
    // The same archive under the name of another version.
    let name = format!("mvm-0.3.0-{}-linux.tar.gz", arch().unwrap().as_str());
    let sums = format!("{}  {name}\n", ContentHash::of(&bytes));
    fs::write(world.file(SUMS), &sums).unwrap();
    fs::write(world.file(SIGNATURE), world.key.sign_bytes(sums.as_bytes())).unwrap();
    let at = world.path("mirror").join(Edition::Exactly("0.3.0".parse().unwrap()).path(&name));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, bytes).unwrap();
    world.refuses(ErrorKind::Integrity);
    assert!(starts(Path::new("/bin/false"), &"0.2.0".parse().unwrap()).is_err());
}

#[test]
fn one_upgrade_at_a_time() {
    let world = World::new();
    world.release("0.2.0", Tree::Good);
    let upgrade = world.upgrade();
    let _turn = upgrade.place.turn().unwrap();
    assert_eq!(world.install().unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn without_a_former_version_there_is_no_way_back() {
    let world = World::new();
    assert_eq!(world.upgrade().roll_back().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(world.upgrade().former().unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_program_of_the_debian_package_is_left_to_it() {
    let world = World::new();
    fs::create_dir(world.path("dpkg")).unwrap();
    let program = world.path("bin/mvm");
    fs::write(world.path("dpkg/mvm.list"), format!("/.\n{}\n", program.display())).unwrap();
    let refused = Place::of(&program, &world.path("dpkg")).unwrap_err();
    assert!(refused.kind == ErrorKind::Conflict && refused.hints.concat().contains("dpkg"));
}

#[test]
fn a_program_of_a_kept_version_is_of_the_same_place() {
    let place = Place::of(Path::new("/d/.mvm/0.2.0~1/bin/mvm"), Path::new("/nowhere")).unwrap();
    assert_eq!(place.directory(), Path::new("/d"));
    let place = Place::of(Path::new("/d/mvm"), Path::new("/nowhere")).unwrap();
    assert_eq!(place.directory(), Path::new("/d"));
}

#[test]
fn without_a_release_key_nothing_is_verified_and_nothing_taken() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("key.pub");
    fs::write(&file, "# none yet\n").unwrap();
    let refused = key(Some(&file)).unwrap_err();
    assert!(refused.kind == ErrorKind::Integrity && refused.hints.concat().contains("release_key"));
    fs::write(&file, "not a key\n").unwrap();
    assert_eq!(key(Some(&file)).unwrap_err().kind, ErrorKind::Invalid);
}
