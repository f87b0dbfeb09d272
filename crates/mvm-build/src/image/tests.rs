#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::collections::BTreeMap;

use mvm_proto::workload::Workload;

use super::*;
use crate::catalogue::LockedPackage;
use crate::debian::{Beginning, PackageImage};
use crate::fetch::{FetchConfig, Mirror, Tools};

/// A static ELF program, as far as its headers go.
fn program(mark: u8, interpreter: bool) -> Vec<u8> {
    let mut elf = vec![0; 0x40];
    elf.get_mut(..6).unwrap().copy_from_slice(b"\x7fELF\x02\x01");
    elf.get_mut(0x20..0x28).unwrap().copy_from_slice(&0x40_u64.to_le_bytes());
    elf.get_mut(0x38..0x3a).unwrap().copy_from_slice(&1_u16.to_le_bytes());
    let mut header = vec![0; 56];
    *header.first_mut().unwrap() = if interpreter { 3 } else { 1 };
    elf.extend(header);
    elf.push(mark);
    elf
}

fn deb(files: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        tar.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    let data = tar.into_inner().unwrap();
    let mut archive = ar::Builder::new(Vec::new());
    for (name, data) in [("debian-binary", &b"2.0\n"[..]), ("data.tar", &data)] {
        archive.append(&ar::Header::new(name.into(), data.len() as u64), data).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A mirror with two small packages, and a lock that names them.
struct World {
    base: tempfile::TempDir,
    lock: PackageLock,
    fetcher: Fetcher,
    store: ImageStore,
}

fn world() -> World {
    let base = tempfile::tempdir().unwrap();
    let mirror = base.path().join("mirror");
    fs::create_dir(&mirror).unwrap();
    let locked = |name: &str, files: &[(&'static str, Vec<u8>)]| {
        let bytes = deb(&files.iter().cloned().collect());
        let sha256 = ContentHash::of(&bytes);
        fs::write(mirror.join(sha256.to_string()), &bytes).unwrap();
        LockedPackage {
            name: name.to_owned(),
            version: "1".to_owned(),
            size: bytes.len() as u64,
            sha256,
        }
    };
    let busybox = b"\x7fELF..\0[\0[[\0ash\0mount\0sh\0\0".to_vec();
    let lock = PackageLock {
        schema: 1,
        arch: Arch::X86_64,
        packages: vec![
            locked("busybox-static", &[("bin/busybox", busybox)]),
            locked("dropbear-bin", &[("usr/sbin/dropbear", b"d".to_vec())]),
        ],
        kernel: locked("linux-image-x", &[("boot/vmlinuz-x", b"\x7fELFkernel".to_vec())]),
    };
    let mut config = FetchConfig::new(base.path().join("cache"));
    config.mirror = Some(Mirror::Directory(mirror));
    config.tools = Tools::default();
    let fetcher = Fetcher::new(config).unwrap();
    let store = ImageStore::open(&base.path().join("images")).unwrap();
    World { base, lock, fetcher, store }
}

impl World {
    fn image(&self, mark: u8) -> DefaultImage {
        let agent = self.base.path().join("agent");
        fs::write(&agent, program(mark, false)).unwrap();
        let kernel = self.base.path().join("kernel");
        fs::write(&kernel, b"\x7fELFkernel").unwrap();
        DefaultImage {
            which: OwnImage::Default,
            agent,
            agent_protocol: 1,
            kernel: KernelSource::File(kernel),
            arch: Arch::X86_64,
        }
    }

    fn build(&self, image: &DefaultImage, on: OnProgress<'_>) -> Result<Image, BuildError> {
        image.build_locked(self.lock.clone(), &self.fetcher, &self.store, Answered::Used, on)
    }
}

#[test]
fn an_image_is_built_once_and_found_by_name_afterwards() {
    let world = world();
    let image = world.image(1);
    let built = world.build(&image, &|_| ()).unwrap();
    built.verify().unwrap();
    assert_eq!(world.store.find("default").unwrap(), built);
    assert_eq!(fs::read(built.kernel()).unwrap(), b"\x7fELFkernel");
    assert_eq!(built.initrd(), None);
    assert!(built.manifest.notes.is_empty());
    let reports = Cell::new(0);
    let found = world.build(&image, &|_| reports.set(reports.get() + 1)).unwrap();
    assert_eq!((found, reports.get()), (built, 0));
}

#[test]
fn another_agent_makes_another_image_and_the_first_stays() {
    let world = world();
    let one = world.build(&world.image(1), &|_| ()).unwrap();
    let two = world.build(&world.image(2), &|_| ()).unwrap();
    assert_ne!(one.manifest.hash, two.manifest.hash);
    assert_eq!(world.store.find("default").unwrap(), two);
    assert_eq!(world.build(&world.image(1), &|_| ()).unwrap(), one);
    assert_eq!(world.store.find("default").unwrap(), one);
}

#[test]
fn the_same_inputs_give_the_same_files_in_another_store() {
    let (first, second) = (world(), world());
    let one = first.build(&first.image(1), &|_| ()).unwrap();
    let two = second.build(&second.image(1), &|_| ()).unwrap();
    assert_eq!(one.manifest, two.manifest);
}

#[test]
fn a_damaged_image_is_built_again() {
    let world = world();
    let built = world.build(&world.image(1), &|_| ()).unwrap();
    fs::remove_file(built.root()).unwrap();
    let again = world.build(&world.image(1), &|_| ()).unwrap();
    assert_eq!(again, built);
    again.verify().unwrap();
}

#[test]
fn a_dynamic_program_or_a_script_is_no_guest_agent() {
    let world = world();
    let image = world.image(1);
    for bytes in [program(1, true), b"#!/bin/sh\n".to_vec(), b"\x7fELF\x02\x01".to_vec()] {
        fs::write(&image.agent, bytes).unwrap();
        let error = world.build(&image, &|_| ()).unwrap_err();
        assert!(matches!(error, BuildError::Assemble(AssembleError::Agent(_))), "{error}");
    }
    assert!(world.store.list().unwrap().is_empty());
}

#[test]
fn a_kernel_package_without_its_modules_leaves_no_image() {
    let world = world();
    let image = DefaultImage { kernel: KernelSource::Debian, ..world.image(1) };
    let error = world.build(&image, &|_| ()).unwrap_err();
    assert!(matches!(error, BuildError::Kernel(GuestKernelError::Modules { .. })), "{error}");
    assert!(world.store.list().unwrap().is_empty());
    assert!(world.store.find("default").is_err());
}

#[test]
fn what_begins_with_an_image_has_its_root_and_asks_for_no_package() {
    let world = world();
    let base = world.build(&world.image(1), &|_| ()).unwrap();
    let fittings = Fittings { agent: world.image(1).agent, agent_protocol: 1, arch: Arch::X86_64 };
    let assembly = Assembly::new(&fittings, &world.store, Answered::Used).unwrap();
    let workload = Workload { services: Vec::new() };
    let own =
        PackageImage { beginning: Beginning::Base, packages: Vec::new(), workload: Some(workload) };
    let steps = std::cell::RefCell::new(Vec::new());
    let note = |progress: crate::Progress<'_>| steps.borrow_mut().push(progress.step);
    let made = own.build(&assembly, &base, &world.fetcher, &note).unwrap();
    assert_eq!(*steps.borrow(), [Step::Pack]);
    let entries = |image: &Image| {
        let mut tree = Tree::default();
        crate::root::take_over(image, &mut tree).unwrap();
        tree.iter().map(|(path, node)| (path.clone(), node.clone())).collect::<Vec<_>>()
    };
    let (there, mut all) = (entries(&base), entries(&made));
    let more: Vec<_> = all.extract_if(.., |entry| !there.contains(entry)).collect();
    assert_eq!(all, there);
    let paths: Vec<_> = more.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["etc/mvm/workload.json"]);
    assert_eq!(own.build(&assembly, &base, &world.fetcher, &note).unwrap(), made);

    let other = world.build(&world.image(2), &|_| ()).unwrap();
    let fittings = Fittings { agent: world.image(2).agent, ..fittings };
    let assembly = Assembly::new(&fittings, &world.store, Answered::Used).unwrap();
    assert_ne!(own.build(&assembly, &other, &world.fetcher, &note).unwrap(), made);
}
