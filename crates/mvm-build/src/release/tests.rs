#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};

use super::*;

const TREE: &str = "mvm-1.2.3-x86_64-linux";

fn sums(lines: &[&str]) -> Result<Sums, ReleaseError> {
    let hash = ContentHash::of(b"x");
    let text: String = lines.iter().map(|name| format!("{hash}  {name}\n")).collect();
    Sums::parse(text.as_bytes())
}

#[test]
fn the_archive_in_the_list_names_the_version() {
    let list =
        sums(&["mvm-1.2.3-aarch64-linux.tar.gz", "mvm-1.2.3-x86_64-linux.tar.gz", "mvm.json"]);
    let archive = list.unwrap().archive(Arch::X86_64).unwrap();
    assert_eq!(archive.version.to_string(), "1.2.3");
    assert_eq!(archive.file, format!("{}.tar.gz", tree_name(&archive.version, Arch::X86_64)));
    for lines in [
        &["mvm-x-x86_64-linux.tar.gz"][..],
        &["mvm-1.2.3-x86_64-linux.tar.gz", "mvm-1.2.4-x86_64-linux.tar.gz"],
    ] {
        assert!(matches!(
            sums(lines).unwrap().archive(Arch::X86_64),
            Err(ReleaseError::Archives { .. })
        ));
    }
}

#[test]
fn a_line_that_is_none_and_a_file_listed_twice_are_refused() {
    for name in ["../x", "a/b", "-x", "", ".hidden", "a b"] {
        assert!(matches!(sums(&["fine", name]), Err(ReleaseError::Line { line: 2 })), "{name}");
    }
    assert!(matches!(sums(&["a", "a"]), Err(ReleaseError::Twice { .. })));
    assert!(Sums::parse(b"no hash  a\n").is_err());
    assert!(Sums::parse(&vec![b'a'; SUMS_MAX + 1]).is_err());
}

/// One entry of an archive in the making.
struct Entry<'a>(&'a str, tar::EntryType, u32, &'a str);

fn file(name: &str) -> Entry<'_> {
    Entry(name, tar::EntryType::Regular, 0o755, "")
}

fn archive(path: &Path, entries: &[Entry<'_>]) {
    let mut tar =
        tar::Builder::new(GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast()));
    let programs = PROGRAMS.map(|name| format!("{TREE}/bin/{name}"));
    for Entry(name, kind, mode, link) in
        programs.iter().map(|name| file(name)).collect::<Vec<_>>().iter().chain(entries)
    {
        let mut header = tar::Header::new_ustar();
        // As bytes: the writer's own checks would refuse what is to be refused by the reader.
        let slot = header.as_old_mut();
        for (to, from) in slot.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        for (to, from) in slot.linkname.iter_mut().zip(link.bytes()) {
            *to = from;
        }
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, std::io::empty()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn a_tree_is_unpacked_with_plain_modes() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = (base.path().join("a"), base.path().join("to"));
    let notes = format!("{TREE}/share/notes");
    archive(&from, &[Entry(&notes, tar::EntryType::Regular, 0o4644, "")]);
    unpack(&from, TREE, &to).unwrap();
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode("bin"), mode("bin/mvm"), mode("share/notes")), (0o755, 0o755, 0o644));
}

#[test]
fn an_archive_with_any_way_out_of_the_tree_is_refused() {
    use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
    let base = tempfile::tempdir().unwrap();
    let inside = format!("{TREE}/x");
    let twice = format!("{TREE}/bin/mvm");
    let up = format!("{TREE}/../../x");
    let cases = [
        Entry("/tmp/x", Regular, 0o644, ""),
        Entry("../x", Regular, 0o644, ""),
        Entry(&up, Regular, 0o644, ""),
        Entry("other/x", Regular, 0o644, ""),
        Entry(TREE, Regular, 0o644, ""),
        Entry(&twice, Regular, 0o755, ""),
        Entry(&inside, Symlink, 0o777, "/etc"),
        Entry(&inside, Link, 0o644, "/etc/passwd"),
        Entry(&inside, Char, 0o644, ""),
        Entry(&inside, Block, 0o644, ""),
        Entry(&inside, Fifo, 0o644, ""),
    ];
    for (index, case) in cases.iter().enumerate() {
        let (from, to) = (base.path().join("a"), base.path().join(format!("{index}/to")));
        archive(&from, std::slice::from_ref(case));
        let refused = unpack(&from, TREE, &to).unwrap_err();
        assert!(matches!(refused, ReleaseError::Entry { .. }), "{}: {refused}", case.0);
        assert!(
            !base.path().join(format!("{index}/x")).exists() && !base.path().join("x").exists()
        );
    }
}

#[test]
fn an_archive_without_a_program_and_a_cut_one_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("a");
    archive(&from, &[]);
    let whole = fs::read(&from).unwrap();
    fs::write(&from, whole.get(..whole.len() / 2).unwrap()).unwrap();
    assert!(matches!(unpack(&from, TREE, &base.path().join("1")), Err(ReleaseError::Read { .. })));
    let tar = GzEncoder::new(fs::File::create(&from).unwrap(), Compression::fast());
    tar::Builder::new(tar).into_inner().unwrap().finish().unwrap();
    let refused = unpack(&from, TREE, &base.path().join("2")).unwrap_err();
    assert!(matches!(refused, ReleaseError::Program { name: "mvm" }));
}
