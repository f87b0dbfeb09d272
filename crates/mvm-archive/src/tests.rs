#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A tar stream of entries (type, name, link target or contents), names unchecked.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, text) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o750);
        let is_file = *kind == EntryType::Regular;
        let gnu = header.as_gnu_mut().unwrap();
        for (byte, value) in gnu.name.iter_mut().zip(name.bytes()) {
            *byte = value;
        }
        if !is_file {
            for (byte, value) in gnu.linkname.iter_mut().zip(text.bytes()) {
                *byte = value;
            }
        }
        let contents = if is_file { text.as_bytes() } else { &[] };
        header.set_size(u64::try_from(contents.len()).unwrap());
        header.set_uid(u64::from(rustix::process::getuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getgid().as_raw()));
        header.set_cksum();
        builder.append(&header, contents).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn names_and_links_that_lead_outside_are_refused_and_nothing_is_written_there() {
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().to_str().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let absolute = format!("{out}/victim");
    let regular = EntryType::Regular;
    let link = EntryType::Symlink;
    let cases: [Vec<(EntryType, &str, &str)>; 6] = [
        vec![(regular, "../victim", "evil")],
        vec![(regular, "a/../../victim", "evil")],
        vec![(regular, &absolute, "evil")],
        vec![(link, "way", out), (regular, "way/victim", "evil")],
        vec![(link, "way", "../"), (regular, "way/victim", "evil")],
        vec![(EntryType::Link, "hard", "../victim"), (regular, "hard", "evil")],
    ];
    for (number, case) in cases.iter().enumerate() {
        let target = outside.path().join(format!("target{number}"));
        let result = unpack(archive(case).as_slice(), &target);
        assert!(result.is_err(), "{case:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched", "{case:?}");
    }
}

#[test]
fn a_file_in_the_place_of_a_link_replaces_the_link_not_what_it_points_to() {
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let target = directory.path().join("target");
    fs::create_dir(&target).unwrap();
    symlink(&victim, target.join("file")).unwrap();
    let bytes = archive(&[(EntryType::Regular, "file", "new")]);
    assert_eq!(unpack(bytes.as_slice(), &target).unwrap(), Copied { entries: 1, bytes: 3 });
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
}

#[test]
fn devices_are_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = archive(&[(EntryType::Char, "null", "")]);
    let error = unpack(bytes.as_slice(), directory.path()).unwrap_err();
    assert!(matches!(error, ArchiveError::Refused(_)));
}

#[test]
fn a_tree_survives_the_way_out_and_in() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("tree");
    fs::create_dir_all(source.join("sub")).unwrap();
    let program = source.join("sub/program");
    fs::write(&program, "#!").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("sub/program", source.join("link")).unwrap();
    let long = "n".repeat(180);
    fs::write(source.join(&long), "long").unwrap();
    rustix::fs::mkfifoat(CWD, source.join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let mut bytes = Vec::new();
    assert_eq!(pack(&mut bytes, &source).unwrap(), Copied { entries: 5, bytes: 6 });
    let target = directory.path().join("copy");
    assert_eq!(unpack(bytes.as_slice(), &target).unwrap(), Copied { entries: 5, bytes: 6 });
    let copy = target.join("tree");
    assert_eq!(fs::metadata(copy.join("sub/program")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("sub/program"));
    assert_eq!(fs::read_to_string(copy.join(long)).unwrap(), "long");
    assert!(!copy.join("pipe").exists());
}

#[test]
fn a_broken_stream_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = archive(&[(EntryType::Regular, "file", "contents")]);
    bytes.truncate(515);
    assert!(unpack(bytes.as_slice(), directory.path()).is_err());
    assert!(unpack([7u8; 700].as_slice(), directory.path()).is_err());
}

#[test]
fn a_copy_gets_the_name_that_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("tree");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "x").unwrap();
    fs::hard_link(source.join("sub/file"), source.join("twin")).unwrap();
    let mut bytes = Vec::new();
    pack(&mut bytes, &source).unwrap();
    unpack_as(bytes.as_slice(), directory.path(), Some(OsStr::new("copy")), SetId::Keep).unwrap();
    assert_eq!(fs::read_to_string(directory.path().join("copy/sub/file")).unwrap(), "x");
    assert_eq!(fs::read_to_string(directory.path().join("copy/twin")).unwrap(), "x");

    let evil = archive(&[(EntryType::Symlink, "x", "/"), (EntryType::Regular, "x/victim", "evil")]);
    let target = directory.path().join("target");
    assert!(unpack_as(evil.as_slice(), &target, Some(OsStr::new("y")), SetId::Keep).is_err());
    let several = archive(&[(EntryType::Regular, "a", "1"), (EntryType::Regular, "b", "2")]);
    unpack_as(several.as_slice(), &target, Some(OsStr::new("one")), SetId::Keep).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 2, "`y` and `one`: all names are replaced");
}

#[test]
fn set_user_id_bits_are_taken_away_where_the_sender_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("program");
    fs::write(&source, "#!").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o6755)).unwrap();
    let mut bytes = Vec::new();
    pack(&mut bytes, &source).unwrap();
    let target = directory.path().join("in");
    unpack_as(bytes.as_slice(), &target, None, SetId::Strip).unwrap();
    assert_eq!(fs::metadata(target.join("program")).unwrap().mode() & 0o7777, 0o755);
}
