//! A writer killed at any moment never leaves a published snapshot that is not whole.
#![expect(clippy::disallowed_methods, reason = "R4 is for what is shipped; this starts itself")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};

use super::*;

const DIRECTORY: &str = "MVM_TEST_CRASH_DIRECTORY";
const ROUNDS: u32 = 24;

/// The host of both processes; only the parent's removes it.
fn ground(dir: &Path) -> Ground {
    let dir =
        tempfile::Builder::new().prefix("g").rand_bytes(0).disable_cleanup(true).tempdir_in(dir);
    Ground::at(dir.unwrap())
}

#[test]
#[ignore = "the child of the test below"]
fn the_writer_that_gets_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let ground = existing(Path::new(&dir));
    let last = phases(&ground.roots, &ground.instance).unwrap().into_keys().max();
    let key = Ground::key();
    for epoch in last.map_or(1, |last| last.0 + 1).. {
        let (epoch, header) = (Generation(epoch), Ground::header(Mib(1)));
        let written = ground.written();
        store(&ground.roots, &ground.instance, epoch, &written, Some(&key), header).unwrap();
        publish(&ground.roots, &ground.instance, epoch).unwrap();
        if epoch.0 % 3 == 0 {
            retire(&ground.roots, &ground.instance, epoch).unwrap();
            remove(&ground.roots, &ground.instance, Generation(epoch.0 - 1)).unwrap();
        }
    }
}

/// The same host again, in the child.
fn existing(dir: &Path) -> Ground {
    let spare = tempfile::tempdir_in("/dev/shm").unwrap();
    let home = dir.join("g");
    Ground {
        roots: ground::roots(&home),
        instance: "acme/workers/i-00000001".parse().unwrap(),
        ram: home.join("ram"),
        jail: home.join("jail"),
        into: home.join("jail/ram"),
        dir: spare,
    }
}

fn run_for(dir: &Path, microseconds: i64) {
    let name = "disk::snapshot::tests::crash::the_writer_that_gets_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let span = Timespec { tv_sec: 0, tv_nsec: microseconds * 1000 };
    let ended =
        rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&span)).unwrap();
    assert_eq!(ended, 0, "the writer ended by itself");
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_writer_leaves_only_whole_snapshots_published() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let ground = ground(dir.path());
    let expected = ground.guest(&[(3, vec![1; PAGE]), (130, vec![2; PAGE])], b"device state");
    let key = Ground::key();
    let mut seen = 0;
    for round in 0..ROUNDS {
        let mut draw = [0; 2];
        getrandom::fill(&mut draw).unwrap();
        run_for(
            dir.path(),
            10_000 + i64::from(round) * 1000 + i64::from(u16::from_le_bytes(draw) % 8000),
        );
        for (epoch, phase) in phases(&ground.roots, &ground.instance).unwrap() {
            if phase == SnapshotPhase::Published {
                let (into, jail) = (&ground.into, &ground.jail);
                let (roots, instance) = (&ground.roots, &ground.instance);
                let opened = open(roots, instance, epoch, Some(&key), into, jail).unwrap();
                assert!(memory(opened.pages).unwrap() == expected, "{epoch}");
                seen += 1;
            }
            remove(&ground.roots, &ground.instance, epoch).unwrap();
        }
    }
    assert!(seen > 0, "no writer lived long enough to publish");
    assert!(phases(&ground.roots, &ground.instance).unwrap().is_empty());
}
