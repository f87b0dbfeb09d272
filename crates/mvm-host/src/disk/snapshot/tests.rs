#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
#![expect(clippy::indexing_slicing, reason = "tests stop at the first surprise")]

mod crash;
mod golden;
mod hostile;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::PathBuf,
};

use mvm_core::{
    Error, ErrorKind,
    id::InstanceRef,
    observed::SnapshotPhase,
    units::{Generation, Mib, Timestamp},
};
use proptest::prelude::*;

use mvm_pager::{Codec, Woken};

use super::{place::Place, seal::OsRandom, store::Writer, *};
use crate::{
    disk::{ground, key::TenantKey},
    roots::Roots,
};

const PAGE: usize = 4096;
const EPOCH: Generation = Generation(5);

/// A host of its own on a tmpfs, with a jail and the VMM's directory in it.
struct Ground {
    dir: tempfile::TempDir,
    roots: Roots,
    instance: InstanceRef,
    ram: PathBuf,
    jail: PathBuf,
    into: PathBuf,
}

impl Ground {
    fn new() -> Self {
        Self::at(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Self {
        let (ram, jail) = (dir.path().join("ram"), dir.path().join("jail"));
        let into = jail.join("ram");
        fs::create_dir_all(&ram).unwrap();
        fs::create_dir_all(&into).unwrap();
        let instance = "acme/workers/i-00000001".parse().unwrap();
        Self { roots: ground::roots(dir.path()), instance, ram, jail, into, dir }
    }

    fn key() -> TenantKey {
        TenantKey::parse(&[9; 32]).unwrap()
    }

    fn header(memory: Mib) -> Header {
        Header {
            taken_on: Present {
                firecracker: "1.12.1".to_owned(),
                cpu: "AMD EPYC".to_owned(),
                kernel: "6.1".to_owned(),
            },
            image: "ab".repeat(32).parse().unwrap(),
            memory,
            created_at: Timestamp(1_700_000_000_000),
        }
    }

    /// What the VMM leaves: memory of 1 MiB with these pages, and a device state.
    fn guest(&self, pages: &[(usize, Vec<u8>)], vmstate: &[u8]) -> Vec<u8> {
        let mut memory = vec![0; 1 << 20];
        let file = File::create(self.ram.join("mem")).unwrap();
        file.set_len(1 << 20).unwrap();
        for (page, content) in pages {
            let start = page * PAGE;
            memory.splice(start..start + content.len(), content.iter().copied());
            file.write_all_at(content, start as u64).unwrap();
        }
        fs::write(self.ram.join("vmstate"), vmstate).unwrap();
        memory
    }

    fn store(&self, key: Option<&TenantKey>) -> Result<(), Error> {
        let place = Place::of(&self.roots, &self.instance, EPOCH);
        let roots = &self.roots;
        let mut writer = Writer { roots, key, random: &mut OsRandom };
        let header = Self::header(Mib(1));
        Ok(writer.store(&place, &self.instance, EPOCH, &self.written(), header)?)
    }

    fn written(&self) -> Written<'_> {
        Written { ram: &self.ram, base: None, woke_from: None, wanted: &[], codec: Codec::None }
    }

    /// Opens all of it: what a guest would see in the end.
    fn whole(&self, key: Option<&TenantKey>) -> Result<Vec<u8>, Error> {
        memory(self.open(key)?.pages)
    }

    fn publish(&self) -> Result<(), Error> {
        publish(&self.roots, &self.instance, EPOCH)
    }

    fn retire(&self) -> Result<(), Error> {
        retire(&self.roots, &self.instance, EPOCH)
    }

    fn remove(&self) -> Result<(), Error> {
        remove(&self.roots, &self.instance, EPOCH)
    }

    fn open(&self, key: Option<&TenantKey>) -> Result<Opened, Error> {
        open(&self.roots, &self.instance, EPOCH, key, &self.into, &self.jail)
    }

    fn phase(&self) -> Option<SnapshotPhase> {
        phases(&self.roots, &self.instance).unwrap().get(&EPOCH).copied()
    }

    fn published(&self) -> PathBuf {
        Place::of(&self.roots, &self.instance, EPOCH).published
    }

    /// A published sealed snapshot of three pages.
    fn sealed() -> Self {
        let ground = Self::new();
        let pages = [(3, vec![1; PAGE]), (40, vec![2; 100]), (200, vec![3; PAGE])];
        ground.guest(&pages, b"device state");
        ground.store(Some(&Self::key())).unwrap();
        ground.publish().unwrap();
        ground
    }
}

/// All of a guest's memory.
fn memory(pages: Pages) -> Result<Vec<u8>, Error> {
    let mut all = vec![0; 1 << 20];
    if let Some(base) = &pages.base {
        let base = base.pages(256)?;
        for (number, page) in all.chunks_mut(PAGE).enumerate() {
            base.verified(u32::try_from(number).unwrap(), page).unwrap();
        }
    }
    let file = pages.read()?;
    let mut scratch = mvm_pager::Scratch::new().unwrap();
    for number in 0..file.index().chunks().len() {
        let content = file
            .chunk(number, &mut scratch)
            .map_err(|error| Error::new(ErrorKind::Integrity, error.to_string()))?;
        for (page, content) in file.index().pages_of(number).iter().zip(content.chunks(PAGE)) {
            let start = *page as usize * PAGE;
            all[start..start + PAGE].copy_from_slice(content);
        }
    }
    Ok(all)
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

fn any_pages() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let content = proptest::collection::vec(any::<u8>(), 1..PAGE);
    proptest::collection::vec((0..255_usize, content), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sparse_memory_comes_back_as_it_was(
        pages in any_pages(),
        vmstate in proptest::collection::vec(any::<u8>(), 0..200_000),
        is_sealed: bool,
    ) {
        let ground = Ground::new();
        let memory = ground.guest(&pages, &vmstate);
        let key = is_sealed.then(Ground::key);
        ground.store(key.as_ref()).unwrap();
        ground.publish().unwrap();
        let opened = ground.open(key.as_ref()).unwrap();
        prop_assert!(fs::read(ground.jail.join(&opened.vmstate)).unwrap() == vmstate);
        prop_assert_eq!(opened.header, Ground::header(Mib(1)));
        prop_assert!(self::memory(opened.pages).unwrap() == memory);
    }
}

#[test]
fn a_snapshot_goes_through_its_phases_and_each_step_twice_is_once() {
    let ground = Ground::new();
    ground.guest(&[(1, vec![1; PAGE])], b"state");
    assert_eq!(kind(ground.publish()), Some(ErrorKind::NotFound));
    assert_eq!(kind(ground.retire()), Some(ErrorKind::NotFound));
    let steps: [(&dyn Fn() -> Result<(), Error>, _); 3] = [
        (&|| ground.store(None), SnapshotPhase::Partial),
        (&|| ground.publish(), SnapshotPhase::Published),
        (&|| ground.retire(), SnapshotPhase::Retired),
    ];
    for (step, phase) in steps {
        for _ in 0..2 {
            step().unwrap();
            assert_eq!(ground.phase(), Some(phase));
        }
    }
    assert_eq!(kind(ground.store(None)), Some(ErrorKind::Conflict));
    assert_eq!(kind(ground.publish()), Some(ErrorKind::Conflict));
    assert_eq!(kind(ground.open(None)), Some(ErrorKind::Conflict));
    ground.remove().unwrap();
    ground.remove().unwrap();
    assert_eq!(ground.phase(), None);
}

#[test]
fn a_snapshot_without_its_header_is_never_published() {
    let ground = Ground::new();
    ground.guest(&[], b"state");
    ground.store(None).unwrap();
    let partial = Place::of(&ground.roots, &ground.instance, EPOCH).partial;
    fs::remove_file(partial.join("header.json")).unwrap();
    assert_eq!(kind(ground.publish()), Some(ErrorKind::Conflict));
    assert_eq!(ground.phase(), Some(SnapshotPhase::Partial));
}

#[test]
fn a_removal_cut_off_in_the_middle_leaves_nothing_resumable() {
    let ground = Ground::sealed();
    let place = Place::of(&ground.roots, &ground.instance, EPOCH);
    fs::create_dir(&place.retired).unwrap();
    assert_eq!(ground.phase(), Some(SnapshotPhase::Retired));
    assert_eq!(kind(ground.open(Some(&Ground::key()))), Some(ErrorKind::Conflict));
    ground.remove().unwrap();
    assert_eq!(ground.phase(), None);
}

#[test]
fn removal_overwrites_the_wrapped_keys() {
    let ground = Ground::sealed();
    let other_name = ground.dir.path().join("same inode");
    fs::hard_link(ground.published().join("keys"), &other_name).unwrap();
    remove_all(&ground.roots, &ground.instance).unwrap();
    assert!(fs::read(other_name).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(ground.phase(), None);
}

#[test]
fn opened_files_can_only_be_read_and_only_by_their_owner() {
    let ground = Ground::sealed();
    let opened = ground.open(Some(&Ground::key())).unwrap();
    assert_eq!(opened.vmstate, std::path::Path::new("ram/vmstate"));
    let mode = ground.into.join("vmstate").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
    ground.open(Some(&Ground::key())).unwrap();
}

#[test]
fn zeros_cost_nothing_on_disk_whether_they_were_written_or_not() {
    for written in [false, true] {
        let ground = Ground::new();
        ground.guest(&[(200, vec![3; PAGE])], b"state");
        if written {
            let content = fs::read(ground.ram.join("mem")).unwrap();
            fs::write(ground.ram.join("mem"), content).unwrap();
        }
        ground.store(Some(&Ground::key())).unwrap();
        ground.publish().unwrap();
        let stored = ground.published().join("mem").metadata().unwrap().len();
        assert_eq!(stored, (PAGE + 16) as u64 + (18 + 16) + 16, "a page, the index, the trailer");
    }
}

#[test]
fn nothing_plain_is_on_disk_when_sealed() {
    let ground = Ground::new();
    let secret = b"the guest's own secret".repeat(20);
    ground.guest(&[(7, secret.clone())], &secret);
    ground.store(Some(&Ground::key())).unwrap();
    let partial = Place::of(&ground.roots, &ground.instance, EPOCH).partial;
    for name in ["header.json", "keys", "vmstate", "mem"] {
        let content = fs::read(partial.join(name)).unwrap();
        assert!(!content.windows(11).any(|found| found == b"guest's own"), "{name}");
    }
}

#[test]
fn a_guest_that_does_not_fit_beside_the_reserve_is_refused_before_anything_is_written() {
    let mut ground = Ground::new();
    ground.guest(&[(3, vec![1; PAGE])], b"state");
    ground.roots.reserve_percent = 100;
    assert_eq!(kind(ground.store(Some(&Ground::key()))), Some(ErrorKind::Refused));
    assert_eq!(ground.phase(), None);
}

#[test]
fn what_changed_since_a_wake_goes_over_the_retired_snapshot() {
    for key in [None, Some(Ground::key())] {
        let ground = Ground::new();
        let mut expected = ground.guest(&[(3, vec![1; PAGE]), (40, vec![2; PAGE])], b"state");
        ground.store(key.as_ref()).unwrap();
        ground.publish().unwrap();
        let instance = &ground.instance;
        let retired = |ground: &Ground| retired_pages(&ground.roots, instance, EPOCH, key.as_ref());
        assert!(retired(&ground).unwrap().is_none(), "it is not retired");
        ground.retire().unwrap();
        let older = retired(&ground).unwrap().unwrap().read().unwrap();
        let touched = ground.guest(&[(3, vec![9; PAGE]), (200, vec![8; PAGE])], b"later state");
        for page in [3, 200] {
            let start = page * PAGE;
            expected[start..start + PAGE].copy_from_slice(&touched[start..start + PAGE]);
        }
        let written = Written {
            woke_from: Some(Woken { file: Some(&older) }),
            wanted: &[200],
            ..ground.written()
        };
        let (roots, next, header) = (&ground.roots, EPOCH.next(), Ground::header(Mib(1)));
        store(roots, instance, next, &written, key.as_ref(), header).unwrap();
        publish(roots, instance, next).unwrap();
        remove(roots, instance, EPOCH).unwrap();
        let (into, jail) = (&ground.into, &ground.jail);
        let opened = open(roots, instance, next, key.as_ref(), into, jail).unwrap();
        assert_eq!(fs::read(into.join("vmstate")).unwrap(), b"later state");
        assert!(memory(opened.pages).unwrap() == expected);
    }
}

#[test]
fn memory_that_is_not_as_large_as_said_is_not_stored() {
    let ground = Ground::new();
    ground.guest(&[], b"state");
    let header = Ground::header(Mib(2));
    let written = ground.written();
    let stored = store(&ground.roots, &ground.instance, EPOCH, &written, None, header);
    assert_eq!(kind(stored), Some(ErrorKind::Integrity));
    assert_eq!(ground.phase(), None);
}

#[test]
fn plain_memory_goes_to_a_tmpfs_or_nowhere() {
    let ground = Ground::sealed();
    let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (key, dir) = (Ground::key(), disk.path());
    let opened = open(&ground.roots, &ground.instance, EPOCH, Some(&key), dir, dir);
    assert_eq!(kind(opened), Some(ErrorKind::Conflict));
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn a_snapshot_fits_only_what_it_was_taken_on() {
    let header = Ground::header(Mib(1));
    let present = header.taken_on.clone();
    assert_eq!(header.compatible(&present), Ok(()));
    for other in [
        Present { firecracker: "1.13.0".to_owned(), ..present.clone() },
        Present { cpu: "Intel".to_owned(), ..present.clone() },
        Present { kernel: "6.12".to_owned(), ..present.clone() },
    ] {
        assert!(header.compatible(&other).is_err(), "{other:?}");
    }
}
