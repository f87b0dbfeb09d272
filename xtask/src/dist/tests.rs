#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output};
use std::thread;

use super::*;

fn inputs(version: &str) -> Inputs {
    let mut programs = Tree::default();
    for name in release::PROGRAMS {
        programs.program(name, format!("#!/bin/sh\necho \"mvm {version}\"\n"));
    }
    let mut manuals = Tree::default();
    manuals.file("mvm.1", ".TH mvm 1\n");
    let mut completions = Tree::default();
    for (shell, _) in COMPLETIONS {
        completions.file(shell, format!("# {shell}\n"));
    }
    let (version, arch) = (version.parse().unwrap(), Arch::native().unwrap());
    Inputs { version, arch, programs, manuals, completions, sbom: b"{}\n".to_vec() }
}

fn bytes_of(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_same_inputs_make_the_same_bytes() {
    let base = tempfile::tempdir().unwrap();
    let key = SigningKey::make(&base.path().join("key")).unwrap();
    let out = base.path().join("out");
    make(&inputs("1.2.3"), Some(&key), &out).unwrap();
    let first = bytes_of(&out);
    make(&inputs("1.2.3"), Some(&key), &out).unwrap();
    assert_eq!(first.len(), 5);
    assert!(first == bytes_of(&out));
    make(&inputs("1.2.4"), Some(&key), &out).unwrap();
    assert!(first != bytes_of(&out));
}

#[test]
fn what_is_made_is_what_an_upgrade_takes() {
    let base = tempfile::tempdir().unwrap();
    let out = base.path().join("out");
    let inputs = inputs("1.2.3-rc.1");
    make(&inputs, None, &out).unwrap();
    let sums = release::Sums::parse(&fs::read(out.join(release::SUMS)).unwrap()).unwrap();
    let archive = sums.archive(inputs.arch).unwrap();
    assert_eq!(archive.version, inputs.version);
    let to = base.path().join("to");
    let tree = release::tree_name(&inputs.version, inputs.arch);
    release::unpack(&out.join(archive.file), &tree, &to).unwrap();
    for path in ["LICENSE", "share/man/man1/mvm.1", "lib/sysusers.d/mvm.conf", "sbom.cdx.json"] {
        assert!(to.join(path).is_file(), "{path}");
    }
    let unit = fs::read_to_string(to.join("lib/systemd/system/mvm-hostd.service")).unwrap();
    assert!(unit.contains("/usr/local/bin/mvm-hostd"));
}

#[test]
fn dpkg_reads_the_package() {
    let base = tempfile::tempdir().unwrap();
    make(&inputs("1.2.3-rc.1"), None, base.path()).unwrap();
    let package = base.path().join(deb::file_name(&inputs("1.2.3-rc.1")));
    let dpkg = |what: &str| {
        let path = package.display().to_string();
        tool::capture(&mut tool::command(&["dpkg-deb", what, &path])).unwrap()
    };
    let contents = dpkg("--contents");
    for line in [
        "-rwxr-xr-x root/root ",
        " usr/bin/mvm-agentd -> mvm\n",
        " usr/lib/systemd/system/mvm-hostd.service\n",
        " usr/share/zsh/vendor-completions/_mvm\n",
        " etc/mvm/agentd.env\n",
    ] {
        assert!(contents.contains(line), "{line} is not in\n{contents}");
    }
    assert!(!contents.contains("usr/local/"), "{contents}");
    let info = dpkg("--info");
    for line in [" Version: 1.2.3~rc.1\n", "conffiles", "postinst", "prerm"] {
        assert!(info.contains(line), "{line} is not in\n{info}");
    }
    let to = base.path().join("to");
    let (from, there) = (package.display().to_string(), to.display().to_string());
    tool::silent(&mut tool::command(&["dpkg-deb", "--extract", &from, &there])).unwrap();
    let unit = fs::read_to_string(to.join("usr/lib/systemd/system/mvm-hostd.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/mvm-hostd"), "{unit}");
}

#[test]
fn the_bill_of_materials_names_what_is_linked_and_nothing_that_tests() {
    let metadata = workspace::metadata().unwrap();
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).unwrap();
    let text = sbom::document(&metadata, &lock, &"1.2.3".parse().unwrap()).unwrap();
    assert_eq!(text, sbom::document(&metadata, &lock, &"1.2.3".parse().unwrap()).unwrap());
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let components = document.get("components").unwrap().as_array().unwrap();
    let named = |name: &str| components.iter().find(|one| one.get("name").unwrap() == name);
    let ring = named("ring").unwrap();
    assert!(ring.get("hashes").is_some() && ring.get("licenses").is_some(), "{ring}");
    for absent in ["proptest", "mvm-sim", "mvm-bench", "xtask"] {
        assert!(named(absent).is_none(), "{absent}");
    }
}

#[test]
fn the_installer_trusts_the_same_project_and_key_as_the_program() {
    let root = workspace::root();
    let script = fs::read_to_string(root.join("install.sh")).unwrap();
    let key = fs::read_to_string(root.join("packaging/release/key.pub")).unwrap();
    let key: String = key.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(script.contains(&format!("\nproject='{}'\n", release::PROJECT)));
    assert!(script.contains(&format!("\nrelease_key='{key}'\n")));
    // Nothing happens before all of the script has arrived.
    assert!(script.ends_with("\n}\n\nmain \"$@\"\n"));
}

/// What a server does to files whose names end like this.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Promises all of it, and hangs up half-way.
    Cut(&'static str),
}

/// A release on a server, and a home to install it in.
struct World {
    base: tempfile::TempDir,
    key: SigningKey,
}

impl World {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let key = SigningKey::make(&base.path().join("release.key")).unwrap();
        Self { base, key }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    /// Makes a release the newest.
    fn release(&self, version: &str) -> PathBuf {
        let at = self.path(&format!("site/releases/download/v{version}"));
        make(&inputs(version), Some(&self.key), &at).unwrap();
        let latest = self.path("site/releases/latest");
        fs::create_dir_all(&latest).unwrap();
        let _former = fs::remove_file(latest.join("download"));
        symlink(&at, latest.join("download")).unwrap();
        at
    }

    /// Signs what the list says now.
    fn sign(&self, release: &Path) {
        let sums = fs::read(release.join(release::SUMS)).unwrap();
        fs::write(release.join(release::SIGNATURE), self.key.sign_bytes(&sums)).unwrap();
    }

    /// Replaces the archive of a release, and signs that.
    fn replace(&self, release: &Path, archive: &[u8]) {
        let path = archive_of(release);
        let name = path.file_name().unwrap().to_string_lossy();
        fs::write(&path, archive).unwrap();
        let sums = format!("{}  {name}\n", ContentHash::of(archive));
        fs::write(release.join(release::SUMS), sums).unwrap();
        self.sign(release);
    }

    fn install(&self, words: &[&str]) -> Output {
        let key = self.path("release.pub").display().to_string();
        self.run(&[&["--key", &key], words].concat(), "/usr/bin:/bin", Fault::None)
    }

    fn run(&self, words: &[&str], path: &str, fault: Fault) -> Output {
        let (site, mirror) = (self.path("site"), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = format!("http://{}", mirror.local_addr().unwrap());
        thread::spawn(move || {
            while let Ok((stream, _)) = mirror.accept() {
                serve(stream, &site, fault);
            }
        });
        let mut script = Command::new("/bin/sh");
        script.arg(workspace::root().join("install.sh")).args(words).env_clear();
        script.env("PATH", path).env("HOME", self.path("home"));
        script.env("MVM_ASSET_MIRROR", address).env("MVM_INSTALL_DIR", self.path("bin"));
        script.output().unwrap()
    }

    fn says(&self, name: &str) -> Option<String> {
        let output = Command::new(self.path("bin").join(name)).output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// The installation was refused, and the version before it is in force, with nothing beside.
    fn refused(&self, code: i32, output: &Output) {
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words}");
        assert!(words.contains("mvm: error: "), "{words}");
        assert_eq!(self.says("mvm").as_deref(), Some("mvm 0.1.0"));
        assert_eq!(names(&self.path("bin/.mvm")), ["0.1.0~1", "current"]);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn archive_of(release: &Path) -> PathBuf {
    let files = names(release);
    release.join(files.iter().find(|name| name.ends_with(".tar.gz")).unwrap())
}

fn serve(mut stream: TcpStream, site: &Path, fault: Fault) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    let (status, body) = match fs::read(site.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let sent = match fault {
        Fault::Cut(end) if path.ends_with(end) => body.len() / 2,
        Fault::Cut(_) | Fault::None => body.len(),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    // A client may hang up on what it does not want.
    let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
}

/// A world with version 0.1.0 in force and version 0.2.0 on the server, whose directory is given.
fn installed() -> (World, PathBuf) {
    let world = World::new();
    world.release("0.1.0");
    let output = world.install(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let newest = world.release("0.2.0");
    (world, newest)
}

#[test]
fn a_release_is_installed_for_a_user_and_the_former_one_is_kept() {
    let (world, _) = installed();
    for name in ["mvm", "mvm-agentd", "mvm-hostd"] {
        assert_eq!(world.says(name).as_deref(), Some("mvm 0.1.0"), "{name}");
    }
    assert!(world.install(&[]).status.success());
    assert_eq!(world.says("mvm").as_deref(), Some("mvm 0.2.0"));
    assert_eq!(names(&world.path("bin/.mvm")), ["0.1.0~1", "0.2.0~1", "current", "former"]);
    assert!(world.path("bin/.mvm/current/lib/sysusers.d/mvm.conf").is_file());
    // A certain version, also an older one; then the same once more.
    assert!(world.install(&["--version", "v0.1.0"]).status.success());
    assert_eq!(world.says("mvm").as_deref(), Some("mvm 0.1.0"));
    let again = world.install(&["--version", "0.1.0"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"));
}

#[test]
fn programs_that_were_put_there_by_hand_are_kept_as_the_former_version() {
    let world = World::new();
    world.release("0.2.0");
    fs::create_dir(world.path("bin")).unwrap();
    let by_hand = world.path("bin/mvm");
    fs::write(&by_hand, "#!/bin/sh\necho \"mvm 0.0.7\"\n").unwrap();
    fs::set_permissions(&by_hand, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(world.install(&[]).status.success());
    assert_eq!(world.says("mvm").as_deref(), Some("mvm 0.2.0"));
    assert!(fs::read_to_string(world.path("bin/.mvm/former/bin/mvm")).unwrap().contains("0.0.7"));
}

#[test]
fn the_installer_refuses_what_was_not_signed() {
    let (world, newest) = installed();
    let sums = fs::read(newest.join(release::SUMS)).unwrap();
    let other = SigningKey::make(&world.path("other")).unwrap();
    for forged in [other.sign_bytes(&sums), vec![0; 64], Vec::new()] {
        fs::write(newest.join(release::SIGNATURE), forged).unwrap();
        world.refused(9, &world.install(&[]));
    }
    fs::remove_file(newest.join(release::SIGNATURE)).unwrap();
    world.refused(8, &world.install(&[]));
    world.sign(&newest);
    fs::write(newest.join(release::SUMS), [&sums[..], b"\n"].concat()).unwrap();
    world.refused(9, &world.install(&[]));
    // Another release under this name.
    fs::rename(
        world.path("site/releases/download/v0.1.0"),
        world.path("site/releases/download/v0.3.0"),
    )
    .unwrap();
    world.refused(9, &world.install(&["--version", "0.3.0"]));
}

#[test]
fn the_installer_refuses_an_archive_that_is_wrong_cut_short_or_not_there() {
    let (world, newest) = installed();
    let path = archive_of(&newest);
    let whole = fs::read(&path).unwrap();
    // A whole one that somebody else made: only its hash tells.
    let mut forged = inputs("0.2.0");
    forged.programs.program("mvm", "#!/bin/sh\necho mvm 0.2.0 # and more\n");
    let name = release::tree_name(&forged.version, forged.arch);
    let forged = archive::tar_gz(&tree(&forged).unwrap(), &format!("{name}/")).unwrap();
    for bytes in [&whole[..whole.len() / 2], b"other", &forged] {
        fs::write(&path, bytes).unwrap();
        world.refused(9, &world.install(&[]));
    }
    fs::remove_file(&path).unwrap();
    world.refused(8, &world.install(&[]));
    fs::write(&path, whole).unwrap();
    let key = world.path("release.pub").display().to_string();
    for end in [".tar.gz", "SHA256SUMS", "SHA256SUMS.sig"] {
        let cut = world.run(&["--key", &key], "/usr/bin:/bin", Fault::Cut(end));
        world.refused(8, &cut);
    }
}

#[test]
fn the_installer_refuses_a_signed_archive_that_leads_outside() {
    let (world, newest) = installed();
    let name = release::tree_name(&"0.2.0".parse().unwrap(), Arch::native().unwrap());
    let cases: [(&str, tar::EntryType, u32, &str); 6] = [
        ("../../../out", tar::EntryType::Regular, 0o644, ""),
        ("/tmp/mvm-out", tar::EntryType::Regular, 0o644, ""),
        ("other/out", tar::EntryType::Regular, 0o644, ""),
        (&format!("{name}/out"), tar::EntryType::Symlink, 0o777, "/etc"),
        (&format!("{name}/out"), tar::EntryType::Link, 0o644, "/etc/passwd"),
        (&format!("{name}/bin/out"), tar::EntryType::Regular, 0o4755, ""),
    ];
    for (path, kind, mode, to) in cases {
        let tree = tree(&inputs("0.2.0")).unwrap();
        let whole = archive::tar_gz(&tree, &format!("{name}/")).unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(whole.as_slice()).read_to_end(&mut tar).unwrap();
        // Before the two empty blocks that end it.
        let mut header = tar::Header::new_ustar();
        let slot = header.as_old_mut();
        slot.name[..path.len()].copy_from_slice(path.as_bytes());
        slot.linkname[..to.len()].copy_from_slice(to.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_cksum();
        tar.truncate(tar.len() - 1024);
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&[0; 1024]);
        world.replace(&newest, &archive::gz(&tar).unwrap());
        world.refused(9, &world.install(&[]));
        assert!(!world.path("out").exists() && !Path::new("/tmp/mvm-out").exists(), "{path}");
    }
}

#[test]
fn without_a_key_or_openssl_only_a_word_against_better_knowledge_installs() {
    let (world, _) = installed();
    world.refused(9, &world.run(&[], "/usr/bin:/bin", Fault::None));
    // The usual programs without openssl.
    let tools = world.path("tools");
    fs::create_dir(&tools).unwrap();
    for name in [
        "sh",
        "uname",
        "id",
        "mktemp",
        "mkdir",
        "rm",
        "rmdir",
        "mv",
        "ln",
        "cp",
        "cat",
        "readlink",
        "sha256sum",
        "tar",
        "gzip",
        "curl",
    ] {
        let path = [Path::new("/usr/bin").join(name), Path::new("/bin").join(name)];
        symlink(path.iter().find(|path| path.exists()).unwrap(), tools.join(name)).unwrap();
    }
    let (key, path) =
        (world.path("release.pub").display().to_string(), tools.display().to_string());
    let without = world.run(&["--key", &key], &path, Fault::None);
    world.refused(8, &without);
    assert!(String::from_utf8_lossy(&without.stderr).contains("--insecure-skip-signature"));
    let believed = world.run(&["--insecure-skip-signature"], &path, Fault::None);
    assert!(believed.status.success(), "{}", String::from_utf8_lossy(&believed.stderr));
    assert_eq!(world.says("mvm").as_deref(), Some("mvm 0.2.0"));
}

#[test]
fn wrong_words_are_refused_before_anything_is_fetched() {
    let (world, _) = installed();
    world.refused(2, &world.install(&["--versoin", "0.2.0"]));
    world.refused(2, &world.install(&["--version"]));
    world.refused(6, &world.install(&["--version", "../x"]));
}
