#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{collections::BTreeMap, ffi::OsStr, path::Path, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::tool;

const DEADLINE: Duration = Duration::from_secs(30);

fn file(path: &str, mode: u16, data: Vec<u8>) -> File {
    File { path: path.to_owned(), mode, uid: Uid(0), gid: Uid(0), data: data.into() }
}

fn image(files: Vec<File>) -> Image {
    Image { label: "mvm-config".to_owned(), size: Image::DEFAULT_SIZE, files }
}

fn debugfs(image: &Path, request: &str) -> Vec<u8> {
    let args = [OsStr::new("-R"), OsStr::new(request), image.as_os_str()];
    tool::run(&tool::find("debugfs").unwrap(), &args, b"", DEADLINE).unwrap().stdout
}

/// Whether the checker finds nothing to say against the image; true where it is not installed.
fn is_clean(image: &Path) -> bool {
    let Ok(e2fsck) = tool::find("e2fsck") else { return true };
    let args = [OsStr::new("-fn"), image.as_os_str()];
    let Ok(told) = tool::run(&e2fsck, &args, b"", DEADLINE) else { return false };
    let told = String::from_utf8(told.stdout).unwrap();
    !told.contains("ix?") && told.contains("Pass 5")
}

#[test]
fn a_config_drive_reads_back_with_label_modes_and_owners() {
    let secret =
        File { uid: Uid(458_752), gid: Uid(70_001), ..file("a/b/key", 0o400, vec![7; 9000]) };
    let drive = image(vec![file("config.json", 0o444, b"{}".to_vec()), secret]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drive");
    drive.write_to(&fs::File::create(&path).unwrap()).unwrap();
    assert!(fs::read(&path).unwrap() == drive.bytes().unwrap());
    assert!(is_clean(&path));
    if tool::find("debugfs").is_err() {
        return;
    }
    assert_eq!(debugfs(&path, "cat /config.json"), b"{}");
    assert_eq!(debugfs(&path, "cat /a/b/key"), [7; 9000]);
    let stat = String::from_utf8(debugfs(&path, "stat /a/b/key")).unwrap();
    let words: Vec<&str> = stat.split_whitespace().collect();
    for pair in [["Mode:", "0400"], ["User:", "458752"], ["Group:", "70001"]] {
        assert!(words.windows(2).any(|found| found == pair), "{pair:?} in {stat}");
    }
    let told = String::from_utf8(debugfs(&path, "show_super_stats -h")).unwrap();
    assert!(told.contains("mvm-config"), "{told}");
}

#[test]
fn the_checker_objects_to_a_damaged_image() {
    if tool::find("e2fsck").is_err() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drive");
    let mut bytes = image(vec![file("a", 0o444, vec![1; 5000])]).bytes().unwrap();
    bytes.splice(2 * BLOCK..2 * BLOCK + 1, [0]);
    fs::write(&path, bytes).unwrap();
    assert!(!is_clean(&path));
}

#[test]
fn the_same_files_in_another_order_make_the_same_image() {
    let files = vec![file("b", 0o444, vec![1]), file("a/c", 0o400, vec![2])];
    let turned: Vec<File> = files.iter().rev().cloned().collect();
    assert!(image(files).bytes().unwrap() == image(turned).bytes().unwrap());
}

#[test]
fn a_file_with_double_indirect_blocks_and_a_directory_of_many_blocks_read_back() {
    let data: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut files = vec![file("large", 0o444, data.clone())];
    files.extend((0..400).map(|n| file(&format!("many/{n:0>60}"), 0o444, vec![1])));
    let drive = Image { size: Mib(16), ..image(files) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drive");
    fs::write(&path, drive.bytes().unwrap()).unwrap();
    assert!(is_clean(&path));
    if tool::find("debugfs").is_ok() {
        let out = dir.path().join("large");
        debugfs(&path, &format!("dump /large {}", out.display()));
        assert!(fs::read(out).unwrap() == data);
        assert_eq!(debugfs(&path, &format!("cat /many/{:0>60}", 399)), [1]);
    }
}

#[test]
fn what_does_not_fit_or_has_no_legal_path_is_refused() {
    assert!(image(vec![file("a", 0o400, vec![0; 5 << 20])]).bytes().is_err());
    for path in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b", &"n".repeat(256)] {
        assert!(image(vec![file(path, 0o400, vec![])]).bytes().is_err(), "{path:?}");
    }
    for paths in [["a", "a"], ["a", "a/b"], ["a/b", "a"]] {
        let files = paths.map(|path| file(path, 0o400, vec![])).to_vec();
        assert!(image(files).bytes().is_err(), "{paths:?}");
    }
    assert!(Image { label: "x".repeat(17), ..image(vec![]) }.bytes().is_err());
    assert!(Image { size: Mib(0), ..image(vec![]) }.bytes().is_err());
    assert!(Image { size: Mib(129), ..image(vec![]) }.bytes().is_err());
    assert!(Image { size: Mib(128), ..image(vec![]) }.bytes().is_ok());
}

fn any_files() -> impl Strategy<Value = BTreeMap<String, (u8, usize)>> {
    let path =
        prop_oneof!["[a-c]{1,2}/[d-f]{1,2}/[g-z]{1,30}", "[a-c]{1,2}/[g-z]{1,200}", "[g-z]{1,9}"];
    let length = prop_oneof![Just(0_usize), 1..5000_usize, 40_000..120_000_usize];
    proptest::collection::btree_map(path, (1..=255_u8, length), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_set_of_files_passes_the_checker_and_reads_back(files in any_files()) {
        let list = files.iter().map(|(path, (byte, length))| file(path, 0o644, vec![*byte; *length]));
        let dir = tempfile::tempdir().unwrap();
        let (path, out) = (dir.path().join("drive"), dir.path().join("out"));
        image(list.collect()).write_to(&fs::File::create(&path).unwrap()).unwrap();
        prop_assert!(is_clean(&path));
        if tool::find("debugfs").is_ok() {
            fs::create_dir(&out).unwrap();
            debugfs(&path, &format!("rdump / {}", out.display()));
            for (path, (byte, length)) in &files {
                prop_assert!(fs::read(out.join(path)).unwrap() == vec![*byte; *length], "{}", path);
            }
        }
    }
}

#[test]
fn a_drive_without_files_is_a_whole_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drive");
    image(vec![]).write_to(&fs::File::create(&path).unwrap()).unwrap();
    assert!(is_clean(&path));
}
