//! The conformance suite over the simulated host.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc},
};

use mvm_core::{
    Error, ErrorKind,
    disk::{DiskUse, Room},
    effect::{Effect, Firewall},
    id::{ImageHash, InstanceId, InstanceRef, PoolRef},
    instance::Instance,
    meter::{Meter, Pressure},
    net::Network,
    observed::{
        Ending, ObservedInstance, ObservedNode, ObservedPool, ObservedStock, ObservedTenant,
    },
    port::{
        Console, ExecRequest, ExecStreams, Finding, Guest, Host, Logs, SecretsToSeal, Vault, Wanted,
    },
    secrets::SecretsSource,
    units::Generation,
};
use mvm_sim::{
    conformance::{self, Rig, Subject},
    disk::{Content, Path},
    guest::SimGuest,
    host::SimHost,
    world::Machine,
};

fn image() -> ImageHash {
    "a".repeat(64).parse().unwrap()
}

struct SimRig {
    machine: Machine,
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl SimRig {
    /// The number that a command in the guest prints.
    fn tells(&self, instance: &InstanceRef, command: &str) -> Result<u64, Error> {
        let output = Captured::default();
        let request = ExecRequest {
            argv: vec![command.to_owned()],
            env: Vec::new(),
            cwd: None,
            user: None,
            terminal: None,
        };
        let streams = ExecStreams {
            stdin: Box::new(std::io::empty()),
            stdout: Box::new(output.clone()),
            stderr: Box::new(std::io::sink()),
            control: mpsc::channel().1,
        };
        SimGuest::new(self.machine.clone()).exec(instance, &request, streams)?;
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        text.trim().parse().map_err(|_| Error::new(ErrorKind::Failed, "not a number"))
    }
}

impl Rig for SimRig {
    fn image(&self) -> ImageHash {
        image()
    }

    fn litter(&self, instance: &InstanceRef) -> Result<ImageHash, Error> {
        let spare: ImageHash = "e".repeat(64).parse().unwrap();
        let mut world = self.machine.world();
        world.images.insert(spare.clone());
        world.has_downloads = true;
        world.versions.insert(conformance::SPARE.parse().unwrap());
        world.rotated_logs.insert(instance.clone());
        world
            .disk
            .put(mvm_sim::disk::Path::Instance(instance.clone()), mvm_sim::disk::Content::Bare);
        Ok(spare)
    }

    fn kill_vmm(&self, instance: &InstanceId) -> Result<(), Error> {
        self.machine.world().end_vmm(instance, Ending::Signaled(9));
        Ok(())
    }

    fn kill_shim(&self, instance: &InstanceId) -> Result<(), Error> {
        self.machine.world().end_shim(instance);
        Ok(())
    }

    fn seal(&self, instance: &InstanceRef, epoch: Generation) -> Result<u64, Error> {
        let source = SecretsSource::Stdin;
        let tenant = &instance.tenant;
        let keyed = !self.machine.world().ring(tenant).is_empty();
        let ask = SecretsToSeal { tenant, epoch, keyed, source: &source };
        SimHost::new(self.machine.clone()).seal(&ask)?;
        match self.machine.world().disk.get(&Path::StagedSecrets(tenant.clone(), epoch)) {
            Some(Content::Secrets(secrets)) => Ok(secrets.content),
            _ => Err(Error::new(ErrorKind::Failed, "nothing was staged")),
        }
    }

    fn secrets(&self, instance: &InstanceRef) -> Result<u64, Error> {
        self.tells(instance, "secrets")
    }

    fn count(&self, instance: &InstanceRef) -> Result<u64, Error> {
        self.tells(instance, "increment")
    }
}

fn failures_over(host: &dyn Host, machine: &Machine) -> Vec<(String, String)> {
    let guest = SimGuest::new(machine.clone());
    let rig = SimRig { machine: machine.clone() };
    let mut failures = Vec::new();
    conformance::run(&Subject { host, guest: &guest, rig: &rig }, &mut |name, result| {
        if let Err(why) = result {
            failures.push((name.to_owned(), why));
        }
    });
    failures
}

#[test]
fn the_simulated_host_conforms() {
    let machine = Machine::with_image(image());
    let failures = failures_over(&SimHost::new(machine.clone()), &machine);
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(machine.world().violations.is_empty(), "{:?}", machine.world().violations);
}

#[test]
fn every_case_has_its_own_name_and_is_reported_once() {
    let machine = Machine::with_image(image());
    let host = SimHost::new(machine.clone());
    let (guest, rig) = (SimGuest::new(machine.clone()), SimRig { machine });
    let mut reported = Vec::new();
    let subject = Subject { host: &host, guest: &guest, rig: &rig };
    conformance::run(&subject, &mut |name, _| reported.push(name.to_owned()));
    assert_eq!(reported, conformance::names().collect::<Vec<_>>());
    let unique: std::collections::BTreeSet<_> = reported.iter().collect();
    assert_eq!(unique.len(), reported.len());
}

/// A host that says Ok to one kind of effect and does nothing.
struct Liar {
    inner: SimHost,
    about: &'static str,
}

impl Host for Liar {
    fn execute(&self, effect: &Effect) -> Result<(), Error> {
        if effect.name() == self.about { Ok(()) } else { self.inner.execute(effect) }
    }
    fn observe_instance(&self, instance: &Instance) -> Result<ObservedInstance, Error> {
        self.inner.observe_instance(instance)
    }
    fn observe_tenant(&self, network: &Network) -> Result<ObservedTenant, Error> {
        self.inner.observe_tenant(network)
    }
    fn observe_pool(&self, pool: &PoolRef) -> Result<ObservedPool, Error> {
        self.inner.observe_pool(pool)
    }
    fn observe_stock(&self) -> Result<ObservedStock, Error> {
        self.inner.observe_stock()
    }
    fn weigh(&self, removals: &[Effect]) -> Result<Vec<u64>, Error> {
        self.inner.weigh(removals)
    }
    fn observe_node(&self) -> Result<ObservedNode, Error> {
        self.inner.observe_node()
    }
    fn room(&self) -> Result<Room, Error> {
        self.inner.room()
    }
    fn disk_use(&self) -> Result<DiskUse, Error> {
        self.inner.disk_use()
    }
    fn verify_network(&self, intent: &Firewall) -> Result<Vec<Finding>, Error> {
        self.inner.verify_network(intent)
    }
    fn meter(&self, instance: &Instance) -> Result<Meter, Error> {
        self.inner.meter(instance)
    }
    fn pressure(&self) -> Result<Pressure, Error> {
        self.inner.pressure()
    }
    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        self.inner.wanted()
    }
    fn console(&self, instance: &InstanceRef) -> Result<Console, Error> {
        self.inner.console(instance)
    }
    fn logs(&self, instance: &InstanceRef, lines: usize) -> Result<Logs, Error> {
        self.inner.logs(instance, lines)
    }
}

#[test]
fn a_host_that_lies_about_any_effect_does_not_conform() {
    for about in [
        "ensure_bridge",
        "remove_bridge",
        "ensure_routes",
        "remove_routes",
        "replace_firewall",
        "ensure_tenant_key",
        "remove_tenant_files",
        "ensure_revision",
        "remove_revision",
        "remove_image",
        "remove_rotated_logs",
        "remove_downloads",
        "remove_version",
        "remove_pool_files",
        "ensure_volume",
        "open_volume",
        "close_volume",
        "grow_volume",
        "keep_volume",
        "attach_volume",
        "wipe_volume",
        "remove_volume",
        "draw_next_key",
        "promote_next_key",
        "remove_instance_files",
        "ensure_tap",
        "remove_tap",
        "ensure_cgroup",
        "remove_cgroup",
        "ensure_jail",
        "remove_jail",
        "spawn_vmm",
        "remove_vmm",
        "boot_vmm",
        "load_snapshot",
        "pause_vmm",
        "publish_secrets",
        "swap_secrets",
        "resume_vmm",
        "write_snapshot",
        "publish_snapshot",
        "retire_snapshot",
        "remove_snapshot",
    ] {
        let machine = Machine::with_image(image());
        let liar = Liar { inner: SimHost::new(machine.clone()), about };
        assert!(!failures_over(&liar, &machine).is_empty(), "a lie about {about} was believed");
    }
}
