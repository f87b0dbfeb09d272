//! The real host under the planner's own steps: boot, sleep, wake, deaths, destruction.
//!
//! Runs in a test host only (`--ignored`): it needs root, KVM, cgroup v2, nftables, Firecracker
//! below `/var/lib/mvm/binaries`, one image below `/var/lib/mvm/images` whose root has busybox and
//! the agent, and `mvm-shim` in `/usr/local/bin`. It says how long each step took.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
#![expect(clippy::expect_used, reason = "tests stop at the first surprise")]
#![expect(clippy::panic, reason = "tests stop at the first surprise")]
#![expect(clippy::print_stdout, reason = "the times of the steps are a result")]

use std::{
    io::Write,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use mvm_core::{
    effect::{Effect, Firewall, Limits, Port},
    id::InstanceRef,
    instance::{Drain, Instance, Want},
    net::{NetId, Network, Offset, Subnet},
    observed::{Ending, ObservedInstance, ObservedVmm, Origin, PausedFor, Phase},
    plan::{self, Step},
    pool::{Resources, Role, RuntimePolicy},
    port::{Clock, ExecRequest, ExecStatus, ExecStreams, Guest, GuestAnswer, Host},
    state::State,
    units::{Generation, Mib, Timestamp, Uid, Vcpus},
    volume::{VolumeEffect, VolumeKind, VolumePlan},
};
use mvm_host::{clock::SystemClock, guest::VsockGuest, local::LocalHost, roots::Roots, vmm};

/// A record, and what brings it to where it is wanted.
struct Ground {
    host: LocalHost,
    guest: VsockGuest,
    record: Instance,
}

impl Ground {
    fn new(keyed: bool) -> Self {
        let roots = Roots {
            data: "/var/lib/mvm".into(),
            run: "/run/mvm".into(),
            cgroup: "/sys/fs/cgroup".into(),
            reserve_percent: 0,
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: "/usr/local/bin/mvm-shim".into(),
            pager: "/usr/local/bin/mvm-pager".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            given: Arc::default(),
        };
        vmm::place::ensure_dir(&roots.run, 0o700).unwrap();
        let image = std::fs::read_dir(roots.data.join("images")).unwrap().next().unwrap().unwrap();
        let image = image.file_name().to_str().unwrap().parse().unwrap();
        let instance: InstanceRef = "acme/workers/i-0000abcd".parse().unwrap();
        let net = NetId(7);
        let network = Network {
            tenant: instance.tenant.clone(),
            net,
            subnet: Subnet::automatic(net).unwrap(),
        };
        let host = LocalHost::new(roots.clone());
        if keyed {
            host.execute(&Effect::EnsureTenantKey(instance.tenant.clone())).unwrap();
        }
        let record = Instance {
            instance,
            network,
            offset: Offset(3),
            uid: Uid(458_755),
            resources: Resources::new(Vcpus(1), Mib(96), Mib(16)),
            role: Role::Worker,
            policy: RuntimePolicy::default(),
            integrations: Vec::new(),
            compression: mvm_core::pool::Compression::default(),
            routing_table: None,
            image: Some(image),
            keyed,
            volume: VolumePlan::default(),
            secrets: mvm_core::secrets::Grant::default(),
            state: State::Ready,
            want: Want::Idle,
            drain: Drain::Ask,
            epoch: Generation(1),
            parked_by: None,
            manual_override_until: None,
            last_failure: None,
            failures: 0,
            publish: Vec::new(),
            created_at: Timestamp(0),
            state_since: Timestamp(0),
            boot: None,
            generation: Generation(1),
        };
        Self { host, guest: VsockGuest::new(roots), record }
    }

    fn observe(&self) -> ObservedInstance {
        self.host.observe_instance(&self.record).unwrap()
    }

    fn firewall(&self) -> Effect {
        let network = self.record.network.clone();
        let port = Port {
            net: network.net,
            offset: self.record.offset,
            mac: self.record.mac(),
            address: self.record.address().unwrap(),
        };
        Effect::ReplaceFirewall(Firewall {
            generation: Generation(1),
            networks: vec![network],
            ports: vec![port],
            resolvers: self.host.observe_tenant(&self.record.network).unwrap().resolvers,
            published: Vec::new(),
        })
    }

    /// The engine's loop in small: observe, notice, plan, run, until at rest.
    fn reach(&mut self, want: Want) {
        println!("-- {want:?}");
        self.record.want = want;
        let began = Instant::now();
        for _ in 0..8 {
            let seen = self.observe();
            if let Some(transition) = plan::truth::notice(&self.record, &seen) {
                println!("   noticed: {:?} {}", transition.state, transition.reason);
                self.record.state = transition.state;
            }
            let steps = plan::instance::plan(&self.record, &seen, Generation(1));
            if steps.is_empty() {
                println!("   at rest after {} ms", began.elapsed().as_millis());
                return;
            }
            for step in steps {
                self.run(step);
            }
        }
        panic!("{want:?} does not come to rest: {:?}", self.observe());
    }

    fn run(&mut self, step: Step) {
        let began = Instant::now();
        let name = match &step {
            Step::Do(effect) => effect.name().to_owned(),
            Step::Ask(act) => format!("{act:?}").split([' ', '{']).next().unwrap().to_owned(),
            Step::SyncFirewall => "sync_firewall".to_owned(),
            Step::Record(transition) => format!("record {:?}", transition.state),
            Step::Tell { event, .. } => format!("tell {event}"),
        };
        match step {
            Step::Do(effect) => self.host.execute(&effect).expect(&name),
            Step::Ask(act) => {
                let answer = self.guest.ask(&self.record.instance, &act);
                assert!(matches!(answer, Ok(GuestAnswer::Done)), "{act:?}: {answer:?}");
            }
            Step::SyncFirewall => self.host.execute(&self.firewall()).unwrap(),
            Step::Tell { .. } => {}
            Step::Record(transition) => {
                self.record.state = transition.state;
                if transition.state == State::Running {
                    self.record.epoch = self.record.epoch.next();
                }
            }
        }
        println!("   {:>6} ms  {name}", began.elapsed().as_millis());
    }

    fn exec(&self, script: &str, input: &'static [u8]) -> (String, String, ExecStatus) {
        let (out, err) = (Shared::default(), Shared::default());
        let (_controls, control) = mpsc::channel();
        let streams = ExecStreams {
            stdin: Box::new(input),
            stdout: Box::new(out.clone()),
            stderr: Box::new(err.clone()),
            control,
        };
        let request = ExecRequest {
            argv: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("WORD".to_owned(), "given".to_owned())],
            cwd: None,
            user: None,
            terminal: None,
        };
        let began = Instant::now();
        let status = self.guest.exec(&self.record.instance, &request, streams).unwrap();
        println!("   {:>6} ms  exec {script}", began.elapsed().as_millis());
        (out.text(), err.text(), status)
    }

    fn vmm(&self) -> ObservedVmm {
        self.observe().vmm.expect("a VMM lives")
    }

    /// The cost of one look at a running instance.
    fn time_a_look(&self) {
        let began = Instant::now();
        for _ in 0..10 {
            self.observe();
        }
        println!("   {:>6} µs  observe_instance", began.elapsed().as_micros() / 10);
    }

    fn nothing_is_left(&mut self) {
        self.reach(Want::Destroyed);
        for effect in [
            Effect::RemoveRoutes(self.record.network.net),
            Effect::RemoveBridge(self.record.network.net),
            Effect::RemovePoolFiles(self.record.instance.pool_ref()),
            Effect::RemoveTenantFiles(self.record.instance.tenant.clone()),
            Effect::ReplaceFirewall(Firewall { generation: Generation(1), ..Firewall::default() }),
        ] {
            self.run(Step::Do(effect));
        }
        let node = self.host.observe_node().unwrap();
        println!("{node:?}");
        assert!(node.bridges.is_empty() && node.routes.is_empty() && node.taps.is_empty());
        assert!(node.cgroups.is_empty() && node.jails.is_empty() && node.runs.is_empty());
        assert!(node.processes.is_empty() && node.tenants.is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("mvm"), "{mounts}");
        assert!(!Path::new("/sys/fs/cgroup/mvm").exists());
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn sleeps_and_wakes(ground: &mut Ground) {
    ground.reach(Want::Running);
    ground.time_a_look();
    let seen = ground.vmm();
    assert_eq!((seen.phase, seen.origin), (Phase::Running, Origin::Boot));
    println!("   resident {} KiB", seen.resident_kib);
    let (out, err, status) =
        ground.exec("cat; echo $WORD >&2; echo 42 > /tmp/word; exit 3", b"typed");
    assert_eq!((out.as_str(), err.trim(), status), ("typed", "given", ExecStatus::Code(3)));

    ground.reach(Want::Warm);
    assert_eq!(ground.vmm().phase, Phase::Paused(PausedFor::Warm));
    ground.reach(Want::Running);

    ground.reach(Want::Sleeping);
    let seen = ground.observe();
    assert!(seen.vmm.is_none() && !seen.shim && !seen.tap && !seen.cgroup && !seen.jail);
    ground.reach(Want::Running);
    assert!(matches!(ground.vmm().origin, Origin::Snapshot(_)));
    let (out, _, status) = ground.exec("cat /tmp/word; date +%s", b"");
    assert_eq!(status, ExecStatus::Code(0));
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("42"));
    let guest: u64 = lines.next().unwrap().parse().unwrap();
    assert!(guest.abs_diff(SystemClock.now().0 / 1000) <= 2, "the guest's clock says {guest}");
}

/// What the kernel says of VMM and shim: user, capabilities, seccomp, cgroup.
fn the_pair_is_confined(ground: &Ground) {
    let place = vmm::place::Place::of(ground.host.roots(), &ground.record.instance.instance);
    let records = vmm::records::Records::at(&place);
    let uid = ground.record.uid.0;
    for (id, leaf, seccomp) in [
        (records.vmm().unwrap().unwrap(), "vmm", "2"),
        (records.shim().unwrap().unwrap(), "shim", "0"),
    ] {
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", id.pid)).unwrap();
        let status = read("status");
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
            lines.next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        println!(
            "   {leaf}: uid {}, gid {}, groups {:?}, caps {}, no_new_privs {}, seccomp {}, {}",
            field("Uid:"),
            field("Gid:"),
            field("Groups:"),
            field("CapEff:"),
            field("NoNewPrivs:"),
            field("Seccomp:"),
            field("VmRSS:")
        );
        assert_eq!(field("Uid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("Gid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("CapEff:"), "0000000000000000");
        assert_eq!(field("Seccomp:"), seccomp);
        assert_eq!(read("cgroup").trim(), format!("0::/mvm/{}/{leaf}", place.instance));
    }
}

fn the_output_of_a_command_is_whole(ground: &Ground) {
    let (out, _, status) = ground.exec("head -c 3000000 /dev/zero | tr '\\0' x", b"");
    assert_eq!((out.len(), status), (3_000_000, ExecStatus::Code(0)));
    assert!(out.bytes().all(|byte| byte == b'x'));
}

fn a_dead_shim_does_not_kill_its_vm(ground: &Ground) {
    println!("-- a dead shim");
    let place = vmm::place::Place::of(ground.host.roots(), &ground.record.instance.instance);
    let shim = vmm::records::Records::at(&place).shim().unwrap().unwrap();
    let process = shim.open().unwrap().unwrap();
    kill(shim.pid);
    assert!(process.wait(Duration::from_secs(10)).unwrap());
    let (out, ..) = ground.exec("echo into the void > /dev/console; sleep 1; echo alive", b"");
    assert_eq!(out.trim(), "alive");
    let seen = ground.observe();
    assert!(seen.vmm.is_some() && !seen.shim);
}

fn a_killed_vmm_is_told_of(ground: &Ground) {
    println!("-- a killed VMM");
    let began = Instant::now();
    kill(ground.vmm().pid);
    let exit = loop {
        if let Some(exit) = ground.observe().exit {
            break exit;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", ground.observe());
    };
    println!("   {:>6} ms  until the exit record: {exit:?}", began.elapsed().as_millis());
    assert_eq!(exit.ending, Ending::Signaled(9));
    assert!(ground.observe().vmm.is_none());
}

#[test]
#[ignore = "runs in a test host"]
fn an_instance_boots_sleeps_wakes_dies_and_leaves_nothing() {
    let mut ground = Ground::new(true);
    sleeps_and_wakes(&mut ground);
    the_pair_is_confined(&ground);
    the_output_of_a_command_is_whole(&ground);
    a_dead_shim_does_not_kill_its_vm(&ground);
    ground.reach(Want::Stopped);
    assert!(ground.observe().exit.is_none());
    ground.reach(Want::Running);
    a_killed_vmm_is_told_of(&ground);
    ground.reach(Want::Running);
    let logs = ground.host.logs(&ground.record.instance, 5).unwrap();
    println!("{logs:#?}");
    assert!(!logs.vmm.is_empty());
    ground.nothing_is_left();
}

/// The steps of a launch up to a jail, with this much memory allowed.
fn lay_ground(ground: &Ground, memory: Mib) -> mvm_core::effect::Jail {
    let record = &ground.record;
    let jail = mvm_core::effect::Jail {
        instance: record.instance.clone(),
        uid: record.uid,
        image: record.image.clone().unwrap(),
        resources: record.resources,
        volume: record.volume.kind,
        identity: mvm_core::effect::Identity {
            network: record.network.clone(),
            offset: record.offset,
            role: record.role.clone(),
            policy: record.policy,
            integrations: Vec::new(),
            routing_table: None,
        },
        secrets: mvm_core::effect::DriveSecrets::default(),
    };
    let limits = Limits { memory, ..Limits::of(record.resources) };
    let (net, offset, uid) = (record.network.net, record.offset, record.uid);
    for effect in [
        Effect::EnsureBridge(record.network.clone()),
        Effect::EnsureTap { net, offset, uid },
        Effect::EnsureCgroup { instance: record.instance.instance.clone(), limits },
        Effect::Volume(VolumeEffect::Ensure {
            instance: record.instance.clone(),
            uid,
            size: Mib(16),
            kind: VolumeKind::Plain,
        }),
        Effect::EnsureJail(Box::new(jail.clone())),
    ] {
        ground.host.execute(&effect).unwrap();
        ground.host.execute(&effect).unwrap();
    }
    jail
}

#[test]
#[ignore = "runs in a test host"]
fn a_shim_killed_at_any_moment_of_a_start_leaves_what_can_be_cleared_and_started_again() {
    let mut ground = Ground::new(false);
    lay_ground(&ground, Mib(200));
    let id = ground.record.instance.instance.clone();
    let spawn = Effect::SpawnVmm {
        instance: ground.record.instance.clone(),
        uid: ground.record.uid,
        epoch: None,
    };
    let place = vmm::place::Place::of(ground.host.roots(), &id);
    let records = vmm::records::Records::at(&place);
    for moment in [0u64, 10, 30, 60, 90, 120, 160, 200, 300] {
        let spawned = std::thread::scope(|scope| {
            let spawned = scope.spawn(|| ground.host.execute(&spawn));
            let shim = loop {
                if let Ok(Some(shim)) = records.shim() {
                    break shim;
                }
            };
            // A shim that lives on passes the time until its moment.
            if let Ok(Some(process)) = shim.open() {
                process.wait(Duration::from_millis(moment)).unwrap();
            }
            if let Ok(Some(process)) = shim.open() {
                process.kill().unwrap();
            }
            spawned.join().unwrap()
        });
        let seen = ground.observe();
        println!(
            "   killed after {moment} ms: {:?}, vmm {:?}, shim {}",
            spawned.map_err(|error| error.to_string()),
            seen.vmm.map(|vmm| vmm.phase),
            seen.shim
        );
        ground.host.execute(&Effect::RemoveVmm(id.clone())).unwrap();
        let seen = ground.observe();
        assert!(seen.vmm.is_none() && !seen.shim && seen.exit.is_none(), "{seen:?}");
        assert!(!vmm::cgroup::is_populated(&place.cgroup).unwrap());
    }
    ground.host.execute(&spawn).unwrap();
    ground.host.execute(&spawn).unwrap();
    assert_eq!(ground.vmm().phase, Phase::Empty);
    for effect in [
        Effect::RemoveVmm(id.clone()),
        Effect::RemoveJail(id.clone()),
        Effect::RemoveCgroup(id.clone()),
    ] {
        ground.host.execute(&effect).unwrap();
        ground.host.execute(&effect).unwrap();
    }
    ground.nothing_is_left();
}

#[test]
#[ignore = "runs in a test host"]
fn a_vmm_that_outgrows_its_cgroup_is_named_as_out_of_memory() {
    let mut ground = Ground::new(false);
    let jail = lay_ground(&ground, Mib(24));
    ground
        .host
        .execute(&Effect::SpawnVmm { instance: jail.instance.clone(), uid: jail.uid, epoch: None })
        .unwrap();
    let _ = ground.host.execute(&Effect::BootVmm(Box::new(jail.clone())));
    let began = Instant::now();
    let exit = loop {
        if let Some(exit) = ground.observe().exit {
            break exit;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", ground.observe());
    };
    println!("   {exit:?}");
    assert!(exit.reason().starts_with("OOM"), "{}", exit.reason());
    ground.nothing_is_left();
}

#[test]
#[ignore = "runs in a test host"]
fn an_instance_without_a_key_sleeps_in_plain_files() {
    let mut ground = Ground::new(false);
    sleeps_and_wakes(&mut ground);
    ground.nothing_is_left();
}
