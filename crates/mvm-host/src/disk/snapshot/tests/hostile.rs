//! Whoever can write the disk can destroy a sealed snapshot, and nothing more.

use super::*;

/// Opens what must not open, and looks whether anything was left behind.
fn assert_refused(ground: &Ground, why: &str) {
    let opened = ground.open(Some(&Ground::key()));
    let left = fs::read_dir(&ground.into).unwrap().count();
    assert_eq!(left, usize::from(opened.is_ok()), "{why}");
    let seen = opened.and_then(|opened| memory(opened.pages));
    assert_eq!(kind(seen), Some(ErrorKind::Integrity), "{why}");
    let _ = fs::remove_file(ground.into.join("vmstate"));
}

fn overwrite(path: &std::path::Path, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_flipped_bit_anywhere_is_refused(spots in proptest::collection::vec((0..4_usize, any::<u64>(), 0..8_u8), 12)) {
        let ground = Ground::sealed();
        for (file, place, bit) in spots {
            let path = ground.published().join(["header.json", "keys", "vmstate", "mem"][file]);
            let content = fs::read(&path).unwrap();
            let place = usize::try_from(place % content.len() as u64).unwrap();
            overwrite(&path, place as u64, &[content[place] ^ (1 << bit)]);
            assert_refused(&ground, &format!("{} byte {place} bit {bit}", path.display()));
            fs::write(&path, content).unwrap();
        }
        prop_assert!(ground.whole(Some(&Ground::key())).is_ok());
    }

    #[test]
    fn any_other_length_is_refused(file in 0..4_usize, length in 0..300_000_u64) {
        let ground = Ground::sealed();
        let path = ground.published().join(["header.json", "keys", "vmstate", "mem"][file]);
        prop_assume!(length != path.metadata().unwrap().len());
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert_refused(&ground, &format!("{} of {length} bytes", path.display()));
    }

    #[test]
    fn random_bytes_are_refused(file in 0..4_usize, content in proptest::collection::vec(any::<u8>(), 0..400)) {
        let ground = Ground::sealed();
        fs::write(ground.published().join(["header.json", "keys", "vmstate", "mem"][file]), content).unwrap();
        assert_refused(&ground, "random bytes");
    }
}

#[test]
fn chunks_that_changed_places_are_refused() {
    let ground = Ground::new();
    // Two chunks of sixteen pages.
    ground.guest(&[(0, vec![1; 32 * PAGE])], b"device state");
    ground.store(Some(&Ground::key())).unwrap();
    ground.publish().unwrap();
    let path = ground.published().join("mem");
    let content = fs::read(&path).unwrap();
    let stored = mvm_pager::CHUNK + 16;
    overwrite(&path, 0, &content[stored..2 * stored]);
    overwrite(&path, stored as u64, &content[..stored]);
    assert_refused(&ground, "chunks 0 and 1 swapped");
}

#[test]
fn files_of_another_snapshot_are_refused() {
    let (ground, other) = (Ground::sealed(), Ground::sealed());
    let names = ["header.json", "keys", "vmstate", "mem"];
    for taken in [&names[1..2], &names[2..3], &names[3..], &names[1..3], &names[1..]] {
        let originals: Vec<_> =
            taken.iter().map(|name| fs::read(ground.published().join(name)).unwrap()).collect();
        for name in taken {
            fs::copy(other.published().join(name), ground.published().join(name)).unwrap();
        }
        // The headers of both are the same bytes here, so a whole foreign set is the other snapshot.
        if taken.len() == 3 {
            assert!(ground.whole(Some(&Ground::key())).is_ok());
            fs::remove_file(ground.into.join("vmstate")).unwrap();
        } else {
            assert_refused(&ground, &format!("{taken:?} of another snapshot"));
        }
        for (name, content) in taken.iter().zip(originals) {
            fs::write(ground.published().join(name), content).unwrap();
        }
    }
}

#[test]
fn a_snapshot_of_another_epoch_or_instance_is_refused() {
    let mut ground = Ground::sealed();
    let old = ground.published();
    let later = Place::of(&ground.roots, &ground.instance, EPOCH.next()).published;
    fs::rename(&old, &later).unwrap();
    let key = Ground::key();
    let opened =
        open(&ground.roots, &ground.instance, EPOCH.next(), Some(&key), &ground.into, &ground.jail);
    assert_eq!(kind(opened), Some(ErrorKind::Integrity));
    ground.instance = "acme/workers/i-00000002".parse().unwrap();
    fs::create_dir_all(ground.published().parent().unwrap()).unwrap();
    fs::rename(&later, ground.published()).unwrap();
    assert_refused(&ground, "another instance");
}

#[test]
fn another_tenants_key_opens_nothing() {
    let ground = Ground::sealed();
    let other = TenantKey::parse(&[8; 32]).unwrap();
    assert_eq!(kind(ground.open(Some(&other))), Some(ErrorKind::Integrity));
    assert_eq!(kind(ground.open(None)), Some(ErrorKind::NotFound));
}

#[test]
fn a_plain_snapshot_does_not_pass_for_a_sealed_one() {
    let ground = Ground::new();
    ground.guest(&[(1, vec![1; PAGE])], b"state");
    ground.store(None).unwrap();
    ground.publish().unwrap();
    assert_refused(&ground, "plain, and the tenant has a key");
}

#[test]
fn a_plain_snapshot_with_another_device_state_is_refused_and_not_linked() {
    let ground = Ground::new();
    ground.guest(&[(1, vec![1; PAGE])], b"state");
    ground.store(None).unwrap();
    ground.publish().unwrap();
    fs::write(ground.published().join("vmstate"), b"STATE").unwrap();
    assert_eq!(kind(ground.open(None)), Some(ErrorKind::Integrity));
    assert_eq!(fs::read_dir(&ground.into).unwrap().count(), 0);
}
