#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::os::unix::fs::MetadataExt;

use mvm_core::{ErrorKind, observed::ObservedPool};

use super::*;
use crate::disk::ground;

struct Ground {
    _dir: tempfile::TempDir,
    outside: PathBuf,
    roots: Roots,
    instance: InstanceRef,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), b"stays").unwrap();
        let roots = ground::roots(dir.path());
        Self { outside, roots, instance: "acme/workers/i-00000001".parse().unwrap(), _dir: dir }
    }

    fn pool(&self) -> PoolRef {
        self.instance.pool_ref()
    }

    fn at(&self, path: PathBuf) -> PathBuf {
        self.roots.data.join(path)
    }

    fn image(&self, digit: &str) -> ImageHash {
        let hash: ImageHash = digit.repeat(64).parse().unwrap();
        let dir = self.at(layout::data::image(&hash));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("vmlinux"), b"kernel").unwrap();
        fs::write(dir.join("rootfs.squashfs"), digit).unwrap();
        hash
    }

    fn write(&self, path: PathBuf, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn a_revision_shares_the_images_files_and_current_moves_to_it() {
    let ground = Ground::new();
    let (first, second) = (ground.image("a"), ground.image("b"));
    for image in [&first, &first, &second] {
        ensure_revision(&ground.roots, &ground.pool(), image).unwrap();
        let found = observe_pool(&ground.roots, &ground.pool()).unwrap();
        assert_eq!(found.current.as_ref(), Some(image));
    }
    let found = observe_pool(&ground.roots, &ground.pool()).unwrap();
    assert!(found.files && found.revisions == [first, second.clone()]);
    let root = ground.at(layout::data::revision(&ground.pool(), &second)).join("rootfs.squashfs");
    assert_eq!(root.metadata().unwrap().nlink(), 2);
}

#[test]
fn a_revision_of_an_image_that_is_not_here_is_not_found_and_leaves_nothing() {
    let ground = Ground::new();
    let image = "c".repeat(64).parse().unwrap();
    let error = ensure_revision(&ground.roots, &ground.pool(), &image).unwrap_err();
    assert_eq!((error.kind, error.hints.len()), (ErrorKind::NotFound, 1));
    assert_eq!(observe_pool(&ground.roots, &ground.pool()).unwrap(), ObservedPool::default());
}

#[test]
fn a_half_linked_revision_is_finished() {
    let ground = Ground::new();
    let image = ground.image("a");
    let revision = ground.at(layout::data::revision(&ground.pool(), &image));
    fs::create_dir_all(durable::partial(&revision)).unwrap();
    fs::write(durable::partial(&revision).join("vmlinux"), b"ker").unwrap();
    ensure_revision(&ground.roots, &ground.pool(), &image).unwrap();
    assert_eq!(fs::read(revision.join("vmlinux")).unwrap(), b"kernel");
}

#[test]
fn removal_takes_planted_links_and_never_follows_them() {
    let ground = Ground::new();
    let logs = ground.at(layout::data::logs(&ground.instance));
    fs::create_dir_all(&logs).unwrap();
    symlink(&ground.outside, logs.join("link")).unwrap();
    let snapshots = ground.at(layout::data::snapshots(&ground.instance));
    fs::create_dir_all(&snapshots).unwrap();
    symlink(&ground.outside, snapshots.join("7")).unwrap();
    fs::create_dir(snapshots.join("8")).unwrap();
    symlink(ground.outside.join("precious"), snapshots.join("8").join("keys")).unwrap();
    remove_instance(&ground.roots, &ground.instance).unwrap();
    assert!(!instance_is_there(&ground.roots, &ground.instance).unwrap());
    assert_eq!(fs::read(ground.outside.join("precious")).unwrap(), b"stays");
}

#[test]
fn a_removed_tenant_leaves_its_audit_log_and_nothing_else() {
    let ground = Ground::new();
    let tenant = &ground.instance.tenant;
    for round in 1..=2 {
        key::ensure(&ground.roots, tenant).unwrap();
        let home = layout::data::tenant(tenant);
        ground.write(home.join("audit.log"), "new");
        ground.write(home.join("audit.log.1"), "old");
        ground.write(home.join("tenant.json"), "{}");
        ground.write(layout::data::volume(&ground.instance), "volume");
        ground.write(layout::data::snapshots(&ground.instance).join("3").join("keys"), "keys");
        assert_eq!(pools(&ground.roots).unwrap().len(), 1);
        assert_eq!(
            instances(&ground.roots, &ground.pool()).unwrap(),
            vec![ground.instance.clone()]
        );

        remove_tenant(&ground.roots, tenant).unwrap();
        remove_tenant(&ground.roots, tenant).unwrap();
        assert!(tenants(&ground.roots).unwrap().is_empty());
        assert!(!key::exists(&ground.roots, tenant).unwrap());
        let archive = ground.at(layout::data::ARCHIVE.into());
        assert_eq!(durable::names(&archive).unwrap().len(), round);
        let kept = archive.join(format!("acme-{round}"));
        assert_eq!(durable::names(&kept).unwrap(), ["audit.log", "audit.log.1"]);
        assert_eq!(fs::read(kept.join("audit.log.1")).unwrap(), b"old");
    }
}

#[test]
fn an_archive_cut_off_in_the_middle_is_finished_in_one_place() {
    let ground = Ground::new();
    let tenant = &ground.instance.tenant;
    ground.write(PathBuf::from("archive/acme.partial/audit.log.1"), "old");
    ground.write(layout::data::tenant(tenant).join("audit.log"), "new");
    remove_tenant(&ground.roots, tenant).unwrap();
    let archive = ground.at(layout::data::ARCHIVE.into());
    assert_eq!(durable::names(&archive).unwrap(), ["acme-1"]);
    assert_eq!(durable::names(&archive.join("acme-1")).unwrap(), ["audit.log", "audit.log.1"]);
}

#[test]
fn notes_of_a_person_beside_ours_are_not_listed() {
    let ground = Ground::new();
    ground.write(PathBuf::from("tenants/READ ME/x"), "");
    ground.write(PathBuf::from("tenants/acme/pools/workers/instances/backup/x"), "");
    assert_eq!(tenants(&ground.roots).unwrap().len(), 1);
    assert!(instances(&ground.roots, &ground.pool()).unwrap().is_empty());
}
