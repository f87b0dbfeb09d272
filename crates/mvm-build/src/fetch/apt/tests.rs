#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use super::*;
use crate::fetch::{FetchConfig, FetchError, Fetcher, WithKernel};
use crate::hash::ContentHash;

const HASH: &str = "00be21c0c17f08ddf26e82d3b53fe7a41efa4a288938da6bb69e89c4b25c281d";

#[test]
fn two_versions_of_a_package_are_two_records() {
    let stanza = |version: &str| {
        format!(
            "Package: a\nVersion: {version}\nDepends: b (>= 1), linux-image-6.1 (= 2) | c\n\
             Description: x\n SHA256: not this one\nSize: 7\nSHA256: {HASH}\n"
        )
    };
    let found = parse_index(&format!("{}\n{}", stanza("1:2"), stanza("1:1"))).unwrap();
    let versions: Vec<_> = found["a"].iter().map(|r| r.package.version.as_str()).collect();
    assert_eq!(versions, ["1:2", "1:1"]);
    assert_eq!(first_kernel(&found["a"][0].depends), Some("linux-image-6.1"));
}

#[test]
fn a_version_that_is_installed_and_in_no_index_is_passed_over() {
    let installed = "Package: a\nStatus: install ok installed\nVersion: 1\n";
    let listed = format!("Package: a\nVersion: 2\nSize: 7\nSHA256: {}\n", "ab".repeat(32));
    let found = parse_index(&format!("{listed}\n{installed}")).unwrap();
    let versions: Vec<_> = found["a"].iter().map(|r| r.package.version.as_str()).collect();
    assert_eq!(versions, ["2"]);
}

#[test]
fn an_entry_without_a_digest_is_refused() {
    let error = parse_index("Package: a\nVersion: 1\nSize: 7\nMD5sum: 00\n").unwrap_err();
    assert!(matches!(error, AptError::NoDigest { .. }));
}

/// An archive of packages behind stand-ins for apt's programs.
struct Archive {
    base: tempfile::TempDir,
}

impl Archive {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        for name in ["index", "index.new"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        Self { base }
    }

    /// Puts a package into `index` or `index.new`, as the only version of its name.
    fn put(&self, index: &str, name: &str, version: &str, depends: &str) -> LockedPackage {
        let directory = self.base.path().join(index);
        let bytes = format!("{name} {version}").into_bytes();
        let package = LockedPackage {
            name: name.to_owned(),
            version: version.to_owned(),
            size: bytes.len() as u64,
            sha256: ContentHash::of(&bytes),
        };
        let stanza = format!(
            "Package: {name}\nVersion: {version}\nDepends: {depends}\nSize: {}\nSHA256: {}\n\n",
            package.size, package.sha256
        );
        fs::write(directory.join(format!("{name}.deb")), bytes).unwrap();
        for suffix in ["", ".current"] {
            fs::write(directory.join(format!("{name}{suffix}")), &stanza).unwrap();
        }
        package
    }

    fn fetcher(&self) -> Fetcher {
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes");
        let mut config = FetchConfig::new(self.base.path().join("cache"));
        config.tools = Tools {
            pip: None,
            apt_get: Some(fakes.join("apt-get")),
            apt_cache: Some(fakes.join("apt-cache")),
            environment: vec![("INDEX".into(), self.base.path().join("index").into())],
        };
        Fetcher::new(config).unwrap()
    }
}

fn set() -> PackageSet {
    PackageSet {
        name: "set".to_owned(),
        arch: Arch::X86_64,
        packages: vec!["tool".to_owned()],
        kernel: "linux-image-family".to_owned(),
    }
}

fn lock(tool: &LockedPackage, kernel: &LockedPackage) -> PackageLock {
    PackageLock {
        schema: 1,
        arch: Arch::X86_64,
        packages: vec![tool.clone()],
        kernel: kernel.clone(),
    }
}

#[test]
fn the_locked_versions_are_taken_while_the_index_has_them() {
    let archive = Archive::new();
    let tool = archive.put("index", "tool", "1", "");
    let kernel = archive.put("index", "linux-image-1", "1", "");
    let lock = lock(&tool, &kernel);
    let files = archive.fetcher().packages(&set(), &lock, WithKernel::Yes, &|_| ()).unwrap();
    assert_eq!(files.resolution.packages, [tool]);
    assert_eq!(files.resolution.notes, Vec::<String>::new());
    assert_eq!(fs::read(&files.packages[0]).unwrap(), b"tool 1");
    assert_eq!(fs::read(files.kernel.unwrap()).unwrap(), b"linux-image-1 1");
}

#[test]
fn a_version_that_left_the_index_is_replaced_by_the_current_one_and_noted() {
    let archive = Archive::new();
    let old_tool = archive.put("index", "tool", "1", "");
    let old_kernel = archive.put("index.new", "linux-image-1", "1", "");
    let tool = archive.put("index", "tool", "2", "");
    let kernel = archive.put("index", "linux-image-2", "2", "");
    archive.put("index", "linux-image-family", "2", "linux-image-2 (= 2)");
    let lock = lock(&old_tool, &old_kernel);
    let files = archive.fetcher().packages(&set(), &lock, WithKernel::Yes, &|_| ()).unwrap();
    assert_eq!(files.resolution.packages, [tool]);
    assert_eq!(files.resolution.kernel, kernel);
    let notes = files.resolution.notes.join("\n");
    assert!(notes.contains("tool 1 of the lock") && notes.contains("linux-image-2 2"), "{notes}");
}

#[test]
fn a_stale_list_is_replaced_by_a_fresh_one_of_our_own() {
    let archive = Archive::new();
    let old = archive.put("index", "tool", "1", "");
    let kernel = archive.put("index", "linux-image-1", "1", "");
    fs::remove_file(archive.base.path().join("index/tool.deb")).unwrap();
    let tool = archive.put("index.new", "tool", "2", "");
    let lock = lock(&old, &kernel);
    let files = archive.fetcher().packages(&set(), &lock, WithKernel::No, &|_| ()).unwrap();
    assert_eq!(files.resolution.packages, [tool]);
    assert_eq!(files.kernel, None);
}

#[test]
fn bytes_that_differ_from_the_index_are_not_delivered() {
    let archive = Archive::new();
    let tool = archive.put("index", "tool", "1", "");
    let kernel = archive.put("index", "linux-image-1", "1", "");
    archive.put("index.new", "tool", "1", "");
    for index in ["index", "index.new"] {
        fs::write(archive.base.path().join(index).join("tool.deb"), "evil").unwrap();
    }
    let lock = lock(&tool, &kernel);
    let error = archive.fetcher().packages(&set(), &lock, WithKernel::No, &|_| ()).unwrap_err();
    assert!(matches!(error, FetchError::NoSource { .. }));
    assert!(error.to_string().contains("left no file for tool"), "{error}");
}

#[test]
fn packages_in_the_cache_need_no_apt() {
    let archive = Archive::new();
    let tool = archive.put("index", "tool", "1", "");
    let kernel = archive.put("index", "linux-image-1", "1", "");
    let lock = lock(&tool, &kernel);
    let fetcher = archive.fetcher();
    fetcher.packages(&set(), &lock, WithKernel::Yes, &|_| ()).unwrap();
    fs::remove_dir_all(archive.base.path().join("index")).unwrap();
    fetcher.packages(&set(), &lock, WithKernel::Yes, &|_| ()).unwrap();
}

#[test]
fn a_package_that_nobody_has_is_named() {
    let archive = Archive::new();
    let tool = archive.put("index", "tool", "1", "");
    let kernel = archive.put("index", "linux-image-1", "1", "");
    fs::write(archive.base.path().join("index.new/x"), "").unwrap();
    for name in ["tool", "tool.current"] {
        fs::remove_file(archive.base.path().join("index").join(name)).unwrap();
    }
    let lock = lock(&tool, &kernel);
    let error = archive.fetcher().packages(&set(), &lock, WithKernel::No, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("no tool for amd64"), "{error}");
}

#[test]
fn packages_come_with_what_they_depend_on_in_the_version_that_apt_chose() {
    let archive = Archive::new();
    let library = archive.put("index", "library", "1:2", "");
    let tool = archive.put("index", "tool", "1", "library");
    let plan = archive.base.path().join("index/plan");
    let lines = "Inst library:amd64 (1:2 Debian:12.1/stable [amd64])\n\
                 Inst tool (1 Debian:12.1/stable [amd64]) []\nConf tool (1 Debian:12.1/stable [amd64])\n";
    fs::write(&plan, lines).unwrap();
    let names = ["tool".to_owned()];
    let found = archive.fetcher().newest(Arch::X86_64, &names, &|_| ()).unwrap();
    assert_eq!(fs::read(&found[0].1).unwrap(), b"library 1:2");
    let packages: Vec<_> = found.into_iter().map(|(package, _)| package).collect();
    assert_eq!(packages, [library, tool]);
    let names = ["to.l".to_owned()];
    let error = archive.fetcher().newest(Arch::X86_64, &names, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("has no to.l for amd64"), "{error}");
    fs::remove_file(&plan).unwrap();
    let error = archive.fetcher().newest(Arch::X86_64, &names, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot have to.l with all that"), "{error}");
}
