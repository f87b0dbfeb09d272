#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::store::tests::{publish, store};

const ARCH: Arch = Arch::X86_64;

struct Fixture {
    base: TempDir,
    image: Image,
    file: PathBuf,
    written: Written,
}

/// A tiny image, and the file that it was written into.
fn fixture() -> Fixture {
    let (base, store) = store();
    let image = publish(&store, "one");
    let file = base.path().join("image.elf");
    let written = write(&image, &file).unwrap();
    Fixture { base, image, file, written }
}

fn taken(file: &Path) -> (TempDir, ImageStore, Result<Image, ParcelError>) {
    let (base, store) = store();
    let image = Parcel::open(file, ARCH).and_then(|parcel| parcel.into_store(&store));
    (base, store, image)
}

/// The tar in a file.
fn tar_of(file: &Path) -> Vec<u8> {
    zstd::decode_all(File::open(file).unwrap()).unwrap()
}

/// A file with these bytes as its tar.
fn packed(fixture: &Fixture, tar: &[u8]) -> PathBuf {
    let file = fixture.base.path().join("other.elf");
    fs::write(&file, zstd::encode_all(tar, 1).unwrap()).unwrap();
    file
}

/// A tar of these members.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        append(&mut tar, name, bytes.len() as u64, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What refuses a file; nothing of it is in the store then.
fn refusal(file: &Path) -> ParcelError {
    let (base, store, image) = taken(file);
    assert!(store.list().unwrap().is_empty());
    let left = fs::read_dir(base.path().join("images")).unwrap().flatten();
    let names: Vec<_> = left.map(|one| one.file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| name == "refs" || name == "requests"), "{names:?}");
    image.unwrap_err()
}

#[test]
fn the_same_image_makes_the_same_bytes_and_they_make_the_same_image() {
    let one = fixture();
    let again = one.base.path().join("again.elf");
    assert_eq!(write(&one.image, &again).unwrap(), one.written);
    assert_eq!(fs::read(&again).unwrap(), fs::read(&one.file).unwrap());
    assert!(is_one(&again) && !is_one(&one.image.kernel()));
    let (_base, store, image) = taken(&one.file);
    let image = image.unwrap();
    image.verify().unwrap();
    assert_eq!(fs::read(image.root()).unwrap(), b"one");
    assert_eq!(image.manifest.created_from, one.image.manifest.created_from);
    let back = one.base.path().join("back.elf");
    write(&image, &back).unwrap();
    let (_base, _, twice) = taken(&back);
    assert_eq!(twice.unwrap().manifest, image.manifest, "however often it travels");
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_file_never_stands_for_what_is_built_here() {
    let one = fixture();
    let (_base, _, image) = taken(&one.file);
    assert_ne!(image.unwrap().manifest.hash, one.image.manifest.hash);
}

#[test]
fn an_image_that_is_there_and_damaged_is_put_in_order() {
    let one = fixture();
    let (_base, store) = store();
    let take = || Parcel::open(&one.file, ARCH).unwrap().into_store(&store).unwrap();
    let image = take();
    fs::write(image.root(), "onE").unwrap();
    take().verify().unwrap();
}

#[test]
fn every_flipped_byte_and_every_missing_end_is_refused() {
    let one = fixture();
    let good = fs::read(&one.file).unwrap();
    let bad = one.base.path().join("bad.elf");
    for place in 0..good.len() {
        let mut bytes = good.clone();
        *bytes.get_mut(place).unwrap() ^= 0x10;
        fs::write(&bad, &bytes).unwrap();
        // A flag of the frame that changes nothing of what is in it is the image all the same.
        if zstd::decode_all(&bytes[..]).ok() == Some(tar_of(&one.file)) {
            continue;
        }
        let error = refusal(&bad);
        assert!(!matches!(error, ParcelError::Store(_)), "{place}: {error}");
        fs::write(&bad, good.get(..place).unwrap()).unwrap();
        refusal(&bad);
    }
}

#[test]
fn what_follows_an_image_is_refused() {
    let one = fixture();
    let good = fs::read(&one.file).unwrap();
    let bad = one.base.path().join("bad.elf");
    for tail in [b"x".as_slice(), &good, &[0x28, 0xb5, 0x2f, 0xfd]] {
        fs::write(&bad, [&good, tail].concat()).unwrap();
        assert!(matches!(refusal(&bad), ParcelError::Damaged(_)));
    }
    let mut inside = tar_of(&one.file);
    inside.extend([0u8; 512]);
    assert!(matches!(refusal(&packed(&one, &inside)), ParcelError::Damaged(_)));
}

#[test]
fn altered_parts_and_parts_of_another_order_or_name_are_refused() {
    let one = fixture();
    let manifest = text_of(&one.image.manifest).unwrap();
    let text = manifest.as_bytes();
    let file = |members: &[(&str, &[u8])]| packed(&one, &tar(members));
    let (kernel, root) = (("vmlinux", b"one".as_slice()), ("rootfs.squashfs", b"one".as_slice()));
    assert!(taken(&file(&[("manifest.json", text), kernel, root])).2.is_ok());
    for members in [
        &[("manifest.json", text), kernel, ("rootfs.squashfs", b"onE")][..],
        &[("manifest.json", text), kernel],
        &[("manifest.json", text), root, kernel],
        &[("manifest.json", text), kernel, root, ("initrd.img", b"")],
        &[("manifest.json", text), kernel, root, root],
        &[("manifest.json", text), ("vmlinux", b"one+"), root],
    ] {
        assert!(matches!(refusal(&file(members)), ParcelError::Damaged(_)), "{members:?}");
    }
    for members in [&[kernel, ("manifest.json", text), root][..], &[("x", b"")], &[]] {
        assert!(matches!(refusal(&file(members)), ParcelError::NoImage(_)), "{members:?}");
    }
}

#[test]
fn a_member_that_leads_out_or_is_no_file_is_refused() {
    let one = fixture();
    let manifest = text_of(&one.image.manifest).unwrap();
    for (name, kind) in [
        ("../vmlinux", tar::EntryType::Regular),
        ("/vmlinux", tar::EntryType::Regular),
        ("vmlinux", tar::EntryType::Symlink),
        ("vmlinux", tar::EntryType::Link),
        ("vmlinux", tar::EntryType::Fifo),
        ("vmlinux", tar::EntryType::Directory),
    ] {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "manifest.json", manifest.len() as u64, manifest.as_bytes()).unwrap();
        let mut header = tar::Header::new_ustar();
        header
            .as_ustar_mut()
            .unwrap()
            .name
            .get_mut(..name.len())
            .unwrap()
            .copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        tar.append(&header, io::empty()).unwrap();
        let error = refusal(&packed(&one, &tar.into_inner().unwrap()));
        let is_it = matches!(error, ParcelError::Refused(_) | ParcelError::Damaged(_));
        assert!(is_it, "{name} {kind:?}: {error}");
    }
}

#[test]
fn a_manifest_that_makes_no_sense_is_refused_before_anything_else_is_read() {
    let one = fixture();
    let open = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = one.image.manifest.clone();
        change(&mut manifest);
        let text = text_of(&manifest).unwrap();
        Parcel::open(&packed(&one, &tar(&[("manifest.json", text.as_bytes())])), ARCH)
    };
    assert!(open(&|_| {}).is_ok());
    let other = if ARCH == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
    assert!(matches!(open(&|it| it.arch = other), Err(ParcelError::Arch(_))));
    let changes: [&dyn Fn(&mut Manifest); 7] = [
        &|it| it.schema = 2,
        &|it| it.kernel.file = "../../vmlinux".to_owned(),
        &|it| it.root.file = "/etc/passwd".to_owned(),
        &|it| it.root.size = u64::MAX,
        &|it| it.kernel.cmdline = vec!["a b".to_owned()],
        &|it| it.kernel.cmdline = vec!["a".repeat(2000)],
        &|it| it.name = "a\nb".to_owned(),
    ];
    for change in changes {
        assert!(matches!(open(change), Err(ParcelError::Refused(_))));
    }
    for text in ["{}", "nothing", "{\"schema\":1,\"more\":2}"] {
        let file = packed(&one, &tar(&[("manifest.json", text.as_bytes())]));
        assert!(matches!(Parcel::open(&file, ARCH), Err(ParcelError::Manifest(_))), "{text}");
    }
}

#[test]
fn a_bomb_costs_no_more_than_its_manifest_says() {
    let one = fixture();
    let zeros = vec![0u8; 64 << 20];
    let file = packed(&one, &tar(&[("manifest.json", &zeros)]));
    assert!(fs::metadata(&file).unwrap().len() < 1 << 20);
    assert!(matches!(Parcel::open(&file, ARCH), Err(ParcelError::NoImage(_))));
    let manifest = text_of(&one.image.manifest).unwrap();
    let file = packed(&one, &tar(&[("manifest.json", manifest.as_bytes()), ("vmlinux", &zeros)]));
    let parcel = Parcel::open(&file, ARCH).unwrap();
    assert_eq!(parcel.bytes(), 6);
    assert!(matches!(refusal(&file), ParcelError::Damaged(_)));
}

#[test]
fn an_image_that_is_damaged_is_not_written_and_leaves_what_was_there() {
    let one = fixture();
    let before = fs::read(&one.file).unwrap();
    fs::write(one.image.root(), "onE").unwrap();
    let error = write(&one.image, &one.file).unwrap_err();
    assert!(matches!(error, ParcelError::Store(StoreError::Damaged { .. })), "{error}");
    assert_eq!(fs::read(&one.file).unwrap(), before);
}

#[test]
fn a_file_that_is_none_is_told() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("text");
    fs::write(&file, "text").unwrap();
    for path in [file.as_path(), base.path()] {
        assert!(!is_one(path));
        assert!(matches!(Parcel::open(path, ARCH), Err(ParcelError::NoImage(_))));
    }
    let absent = base.path().join("absent");
    assert!(matches!(Parcel::open(&absent, ARCH), Err(ParcelError::File(_))));
}
