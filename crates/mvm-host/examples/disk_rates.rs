//! Measures the disk's hot paths beside the bare cipher, in the same run:
//! `cargo run --release -p mvm-host --example disk_rates -- DIRECTORY [MIB]`.
//!
//! `DIRECTORY` holds the snapshots; the plain memory lies on `/dev/shm`.
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use mvm_core::units::{Generation, Mib, Timestamp, Uid};
use mvm_host::{
    disk::{
        ext::{File, Image},
        key::TenantKey,
        snapshot::{self, Header, Present},
    },
    roots::Roots,
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

const RUNS: usize = 5;

fn median(mut work: impl FnMut() -> Duration) -> Duration {
    let mut spans: Vec<Duration> = (0..RUNS).map(|_| work()).collect();
    spans.sort_unstable();
    spans.get(RUNS / 2).copied().unwrap_or_default()
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn report(what: &str, size: Mib, span: Duration) {
    println!("{what:<42} {:>8.0} MiB/s", f64::from(size.0) / span.as_secs_f64());
}

/// The cipher alone on one thread, over one chunk that stays in the cache.
fn cipher(size: Mib, chunk: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut buffer = vec![1; chunk];
    let count = size.bytes() / chunk as u64;
    let span = median(|| {
        timed(|| {
            for _ in 0..count {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                let _tag =
                    key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut buffer).unwrap();
            }
        })
    });
    report(&format!("ring alone, one thread, {} KiB", chunk >> 10), size, span);
}

fn fill(ram: &Path, size: Mib) {
    let mut file = fs::File::create(ram.join("mem")).unwrap();
    let mut block = vec![0_u8; 1 << 20];
    for turn in 0..size.0 {
        for (place, byte) in (turn..).zip(block.iter_mut()) {
            *byte = (place.wrapping_mul(2_654_435_761) >> 24) as u8;
        }
        file.write_all(&block).unwrap();
    }
    fs::write(ram.join("vmstate"), vec![1; 40_000]).unwrap();
}

fn snapshots(what: &str, base: &Path, ram: &Path, key: Option<&TenantKey>, size: Mib) {
    let home = tempfile::tempdir_in(base).unwrap();
    let jail = tempfile::tempdir_in("/dev/shm").unwrap();
    let roots = Roots {
        data: home.path().join("data"),
        run: home.path().join("run"),
        cgroup: home.path().join("cgroup"),
        reserve_percent: 10,
        shim: home.path().join("shim"),
        resolv_conf: "/etc/resolv.conf".into(),
        given: std::sync::Arc::default(),
    };
    let instance = "acme/workers/i-00000001".parse().unwrap();
    let header = Header {
        taken_on: Present { firecracker: String::new(), cpu: String::new(), kernel: String::new() },
        image: "0".repeat(64).parse().unwrap(),
        memory: size,
        created_at: Timestamp(0),
    };
    let epoch = Generation(1);
    let span = median(|| {
        timed(|| snapshot::store(&roots, &instance, epoch, ram, key, header.clone()).unwrap())
    });
    report(&format!("store {what}"), size, span);
    snapshot::publish(&roots, &instance, epoch).unwrap();
    if key.is_some() {
        let (into, root) = (jail.path(), jail.path());
        let span = median(|| {
            timed(|| {
                snapshot::open(&roots, &instance, epoch, key, into, root).unwrap();
            })
        });
        report(&format!("open {what}"), size, span);
    }
}

fn drive() {
    let data = vec![b'x'; 2000];
    let file = File {
        path: "config.json".to_owned(),
        mode: 0o444,
        uid: Uid(0),
        gid: Uid(0),
        data: data.into(),
    };
    let image =
        Image { label: "mvm-config".to_owned(), size: Image::DEFAULT_SIZE, files: vec![file] };
    let target = tempfile::tempfile_in("/dev/shm").unwrap();
    let span = median(|| timed(|| image.write_to(&target).unwrap()));
    println!("{:<42} {:>8.0} µs", "config drive of 4 MiB", span.as_secs_f64() * 1e6);
}

fn main() {
    let mut args = std::env::args().skip(1);
    let base = args.next().unwrap();
    let size = Mib(args.next().map_or(512, |text| text.parse().unwrap()));
    drive();
    for chunk in [64, 256, 1024] {
        cipher(size, chunk << 10);
    }
    let ram = tempfile::tempdir_in("/dev/shm").unwrap();
    fill(ram.path(), size);
    let key = TenantKey::parse(&[9; 32]).unwrap();
    let shm = Path::new("/dev/shm");
    snapshots("sealed, to tmpfs", shm, ram.path(), Some(&key), size);
    snapshots("sealed, to DIRECTORY", Path::new(&base), ram.path(), Some(&key), size);
    snapshots("plain, to tmpfs", shm, ram.path(), None, size);
    snapshots("plain, to DIRECTORY", Path::new(&base), ram.path(), None, size);
}
