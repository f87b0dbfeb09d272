#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use super::*;

fn superblock(label: &[u8], shift: u32) -> Vec<u8> {
    let mut bytes = vec![0u8; SUPERBLOCK_LENGTH];
    bytes.splice(0x38..0x3a, [0x53, 0xef]);
    bytes.splice(0x18..0x1c, shift.to_le_bytes());
    bytes.splice(0x78..0x78 + label.len(), label.iter().copied());
    bytes
}

#[test]
fn a_label_is_read_from_an_ext_superblock() {
    let found = parse_superblock(&superblock(b"mvm-data\0junk", 2)).unwrap();
    assert_eq!(found, Superblock { label: "mvm-data".to_owned(), block_size: 4096 });
    let full = parse_superblock(&superblock(b"0123456789abcdef", 0)).unwrap();
    assert_eq!(full.label, "0123456789abcdef");
}

#[test]
fn what_is_no_ext_superblock_is_none() {
    assert_eq!(parse_superblock(&[]), None);
    assert_eq!(parse_superblock(&[0; SUPERBLOCK_LENGTH]), None);
    assert_eq!(parse_superblock(&superblock(b"x", 40)), None);
    let mut short = superblock(b"x", 0);
    short.truncate(0x80);
    assert_eq!(parse_superblock(&short), None);
}

#[test]
fn secrets_are_mirrored_with_mode_0400_and_old_ones_go() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("mail")).unwrap();
    fs::write(from.path().join("mail/secrets.json"), "{}").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.path().join("link")).unwrap();
    fs::create_dir(to.path().join("gone")).unwrap();
    fs::write(to.path().join("gone/secrets.json"), "old").unwrap();
    fs::write(to.path().join("mail"), "was a file").unwrap();
    mirror(from.path(), to.path()).unwrap();
    let names: Vec<_> =
        fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["mail"]);
    let file = to.path().join("mail/secrets.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o400);
    fs::write(from.path().join("mail/secrets.json"), "{\"a\":\"b\"}").unwrap();
    mirror(from.path(), to.path()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"a\":\"b\"}");
}

#[test]
fn a_malformed_config_is_invalid_and_says_where() {
    let error = parse_config(b"{\"instance_id\": 7}").unwrap_err();
    assert_eq!(error.kind, FailureKind::Invalid);
    assert!(error.message.contains("line 1"), "{}", error.message);
}
