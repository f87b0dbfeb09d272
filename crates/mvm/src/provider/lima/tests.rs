#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    thread,
};

use super::*;
use crate::provider::{
    HostChoice,
    contract::{self, keeps_its_promises},
};

struct Silent;

impl Progress for Silent {
    fn report(&self, _step: &ProgressStep) {}
}

/// What stands for `mvm` in the machine: its bootstrap is written down, every other line is a command.
const FAR: &str = "#!/bin/sh\nif [ \"$2\" = bootstrap ]; then echo \"$MVM_HOST $1\" >> \"${0%/*}/bootstrapped\"; \
                   exit \"$(cat \"${0%/*}/code\")\"; fi\nexec \"$@\"\n";

/// A Lima whose machine is a directory, and the far side of its shell.
struct World {
    base: tempfile::TempDir,
}

fn some_programs(config: &Config) -> Result<Programs, Error> {
    let path = config.data_dir.join("mvm");
    Ok(BTreeMap::from([("mvm", path)]))
}

impl World {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let world = Self { base };
        for directory in ["data", "lima"] {
            fs::create_dir(world.path(directory)).unwrap();
        }
        fs::write(world.path("data/mvm"), "a program").unwrap();
        let far = world.path("far");
        fs::write(&far, FAR).unwrap();
        fs::set_permissions(&far, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(world.path("code"), "0").unwrap();
        let listener = UnixListener::bind(world.path("lima/far.sock")).unwrap();
        let root = world.path("lima/mvm/root");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (far, root) = (far.clone(), root.clone());
                thread::spawn(move || forward::tests::serve(stream, &far, &root));
            }
        });
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    fn lima(&self) -> Lima {
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes");
        let home = format!("HOME={}", self.base.path().display());
        let lima = format!("LIMA_HOME={}", self.path("lima").display());
        let env = [home, lima].map(Into::into).to_vec();
        let path = std::env::var_os("PATH").unwrap();
        let mut python = std::env::split_paths(&path).map(|directory| directory.join("python3"));
        assert!(python.any(|path| path.is_file()), "the stand-in needs python3");
        let limactl = Some(Limactl::at(fakes.join("limactl"), fakes.join("ssh"), env));
        let config = contract::config(self.base.path(), HostChoice::Lima);
        Lima { config, limactl, programs: some_programs }
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }
}

#[test]
fn a_machine_in_lima_keeps_its_promises() {
    let world = World::new();
    keeps_its_promises(&world.lima());
    assert_eq!(world.text("bootstrapped"), "native --quiet\n", "once, at the first start");
    let ways = world.text("ways");
    assert_eq!(ways, "", "what is asked of ssh is beside the machines: {ways}");
    let ways = world.text("lima/ways");
    let each = "forward 127.0.0.1:1:127.0.0.1:1 lima-mvm ssh.config\n\
                cancel 127.0.0.1:1:127.0.0.1:1 lima-mvm ssh.config\n";
    assert_eq!(ways, each.repeat(2));
    assert!(!world.path("data/host/lima.yaml").exists());
}

#[test]
fn programs_that_changed_go_over_the_wire_before_the_next_command() {
    let world = World::new();
    let lima = world.lima();
    lima.ensure_made(Packages::Expect, &Silent).unwrap();
    lima.ensure_started(&Silent).unwrap();
    let there = "lima/mvm/root/usr/local/bin/mvm";
    assert_eq!(world.text(there), "a program");
    fs::write(world.path("data/mvm"), "another program").unwrap();
    lima.connect().unwrap();
    assert_eq!(world.text(there), "another program");
    let pushes = |world: &World| world.text("lima/calls").matches(" tar ").count();
    let before = pushes(&world);
    lima.connect().unwrap();
    assert_eq!(pushes(&world), before, "what is there is not sent again");
}

#[test]
fn a_machine_that_does_not_get_ready_says_why_and_is_got_ready_by_the_next_command() {
    let world = World::new();
    let lima = world.lima();
    fs::write(world.path("code"), "8").unwrap();
    lima.ensure_made(Packages::Expect, &Silent).unwrap();
    let refused = lima.ensure_started(&Silent).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
    fs::write(world.path("code"), "0").unwrap();
    lima.ensure_started(&Silent).unwrap();
    assert_eq!(world.text("bootstrapped").lines().count(), 2);
}

#[test]
fn a_machine_that_lima_calls_broken_is_refused_and_can_be_removed() {
    let world = World::new();
    let lima = world.lima();
    lima.ensure_made(Packages::Expect, &Silent).unwrap();
    fs::write(world.path("lima/mvm/status"), "Broken").unwrap();
    let refused = lima.look().unwrap_err();
    assert!(refused.to_string().contains("Broken"), "{refused}");
    lima.ensure_removed(&Silent).unwrap();
    assert_eq!(lima.look().unwrap(), MachineState::Absent);
}

#[test]
fn a_port_of_datagrams_is_refused_and_the_others_are_carried() {
    let world = World::new();
    let lima = world.lima();
    lima.ensure_made(Packages::Expect, &Silent).unwrap();
    lima.ensure_started(&Silent).unwrap();
    let port = |port, protocol| Published { port, protocol };
    let ports = [port(53, Protocol::Udp), port(80, Protocol::Tcp)];
    let refused = lima.ensure_published(&ports).unwrap_err();
    assert!(refused.to_string().contains("port 53"), "{refused}");
    assert_eq!(world.text("lima/ways").lines().count(), 1);
}

#[test]
fn without_lima_there_is_no_machine_and_the_refusal_says_how_to_get_one() {
    let base = tempfile::tempdir().unwrap();
    let config = contract::config(base.path(), HostChoice::Lima);
    let lima = Lima { config, limactl: None, programs: some_programs };
    assert_eq!(lima.look().unwrap(), MachineState::Absent);
    let refused = lima.ensure_made(Packages::Expect, &Silent).unwrap_err();
    assert!(refused.hints.concat().contains("brew install lima"), "{refused}");
}
