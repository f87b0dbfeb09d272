#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::*;
use crate::catalogue::Arch;
use crate::manifest::{AgentInfo, KernelFile, RootFile, RootFormat};

const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes a tiny image under the hash of `seed`.
pub(crate) fn publish(store: &ImageStore, seed: &str) -> Image {
    let lock = store.lock(PATIENCE).unwrap();
    let scratch = store.scratch(&lock).unwrap();
    let sha256 = ContentHash::of(seed.as_bytes());
    for name in ["vmlinux", "rootfs.squashfs"] {
        write_synced(&scratch.path().join(name), seed.as_bytes()).unwrap();
    }
    let size = seed.len() as u64;
    let manifest = Manifest {
        schema: MANIFEST_SCHEMA,
        name: "default".to_owned(),
        hash: sha256,
        arch: Arch::X86_64,
        created_from: Vec::new(),
        kernel: KernelFile { file: "vmlinux".to_owned(), size, sha256, cmdline: Vec::new() },
        initrd: None,
        root: RootFile {
            file: "rootfs.squashfs".to_owned(),
            size,
            sha256,
            format: RootFormat::Squashfs,
        },
        agent: AgentInfo { sha256, protocol: 1 },
        notes: Vec::new(),
    };
    store.publish(scratch, &manifest, &lock).unwrap()
}

pub(crate) fn store() -> (tempfile::TempDir, ImageStore) {
    let base = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&base.path().join("images")).unwrap();
    (base, store)
}

#[test]
fn an_image_is_found_by_name_hash_and_unambiguous_beginning() {
    let (_base, store) = store();
    let one = publish(&store, "one");
    let two = publish(&store, "two");
    let hash = one.manifest.hash.to_string();
    store.set_ref("default", one.manifest.hash).unwrap();
    assert_eq!(store.find("default").unwrap(), one);
    assert_eq!(store.find(&hash).unwrap(), one);
    assert_eq!(store.find(hash.get(..8).unwrap()).unwrap(), one);
    store.set_ref("default", two.manifest.hash).unwrap();
    assert_eq!(store.find("default").unwrap(), two);
    assert_eq!(store.list().unwrap().len(), 2);
    for wrong in ["nothing", "", "../refs/default", hash.get(..3).unwrap(), &"0".repeat(64)] {
        assert!(matches!(store.find(wrong), Err(StoreError::NotFound(_))), "{wrong}");
    }
}

#[test]
fn a_short_or_missing_file_is_named_and_publishing_again_heals() {
    let (_base, store) = store();
    let image = publish(&store, "one");
    image.verify().unwrap();
    fs::write(image.root(), "o").unwrap();
    let error = store.get(image.manifest.hash).unwrap_err();
    assert!(error.to_string().contains("rootfs.squashfs"), "{error}");
    assert!(store.list().unwrap().is_empty());
    publish(&store, "one");
    store.get(image.manifest.hash).unwrap().verify().unwrap();
}

#[test]
fn a_flipped_byte_is_found_by_verify() {
    let (_base, store) = store();
    let image = publish(&store, "one");
    fs::write(image.kernel(), "onE").unwrap();
    assert!(matches!(image.verify(), Err(StoreError::Damaged { path }) if path == image.kernel()));
}

#[test]
fn what_a_killed_build_left_is_never_an_image_and_goes_with_the_next() {
    let (base, store) = store();
    let left = base.path().join("images").join(".new-killed");
    fs::create_dir(&left).unwrap();
    fs::write(left.join(MANIFEST), "{}").unwrap();
    assert!(store.list().unwrap().is_empty());
    publish(&store, "one");
    assert!(!left.exists());
}

#[test]
fn a_second_build_waits_and_gives_up_with_the_store_named() {
    let (_base, store) = store();
    let held = store.lock(PATIENCE).unwrap();
    assert!(matches!(store.lock(Duration::ZERO), Err(StoreError::Busy { .. })));
    drop(held);
    store.lock(PATIENCE).unwrap();
}

#[test]
fn a_ref_is_a_name_and_a_manifest_of_another_schema_is_refused() {
    let (_base, store) = store();
    let image = publish(&store, "one");
    for wrong in ["", "a/b", "..", "-a", "A", &"a".repeat(64)] {
        assert!(matches!(store.set_ref(wrong, image.manifest.hash), Err(StoreError::Name(_))));
    }
    let path = image.directory.join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap().replace("\"schema\": 1", "\"schema\": 2");
    fs::write(&path, text).unwrap();
    assert!(matches!(store.find("one"), Err(StoreError::NotFound(_))));
    assert!(matches!(store.get(image.manifest.hash), Err(StoreError::Schema { found: 2, .. })));
}

fn listed(image: &Image) -> Vec<(String, crate::fetch::Pinned)> {
    image.portable().unwrap().into_iter().map(|one| (one.name, one.pinned)).collect()
}

#[test]
fn an_image_comes_out_of_one_store_and_into_another_with_the_same_bytes() {
    let ((_a, from), (_b, to)) = (store(), store());
    let image = publish(&from, "one");
    let hash = image.manifest.hash;
    let files = image.portable().unwrap();
    assert_eq!(files.first().map(|file| file.name.as_str()), Some("manifest.json"));
    assert!(!to.has(hash, &listed(&image)).unwrap());
    let copy = to.import(hash, &files).unwrap();
    copy.verify().unwrap();
    assert_eq!(listed(&copy), listed(&image));
    assert!(to.has(hash, &listed(&image)).unwrap());
    // Another file of the same length takes the place of one: what was linked stays as it is.
    fs::remove_file(copy.root()).unwrap();
    fs::write(copy.root(), "onE").unwrap();
    assert!(!to.has(hash, &listed(&image)).unwrap());
    to.import(hash, &files).unwrap().verify().unwrap();
}

#[test]
fn files_that_are_not_the_image_they_are_said_to_be_leave_nothing() {
    let ((_a, from), (_b, to)) = (store(), store());
    let (one, two) = (publish(&from, "one"), publish(&from, "two"));
    let short: Vec<_> = one.portable().unwrap().into_iter().take(2).collect();
    let mut mixed = one.portable().unwrap();
    mixed.truncate(2);
    mixed.extend(two.portable().unwrap().pop());
    let whole = one.portable().unwrap();
    for (hash, files) in [
        (one.manifest.hash, short),
        (one.manifest.hash, mixed),
        (two.manifest.hash, whole.clone()),
        (one.manifest.hash, whole.into_iter().skip(1).collect()),
    ] {
        assert!(matches!(to.import(hash, &files), Err(StoreError::Foreign { .. })));
        assert!(to.list().unwrap().is_empty());
    }
}

#[test]
fn an_image_that_is_here_with_other_bytes_is_not_taken_for_what_is_wanted() {
    let (_base, store) = store();
    let image = publish(&store, "one");
    let mut other = listed(&image);
    other.last_mut().unwrap().1.sha256 = ContentHash::of(b"other");
    assert!(matches!(store.has(image.manifest.hash, &other), Err(StoreError::Differs { .. })));
}
