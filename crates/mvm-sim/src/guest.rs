//! The guest port over the simulated machine: what an agent answers, and four commands.
//!
//! A guest answers only while its vCPUs run and its agent lives. The commands: `counter` prints
//! how far the workload is, `increment` works one step and prints, `write` writes to the data disk,
//! `random` prints a number from the guest's generator, `secrets` what stands for its secrets.

use std::{
    io::{Read, Write},
    time::Duration,
};

use mvm_core::{
    Error, ErrorKind,
    id::InstanceRef,
    meter::{CopyReport, GuestMetrics},
    net::NetId,
    observed::{Ending, Phase},
    port::{
        ExecRequest, ExecStatus, ExecStreams, Guest, GuestAct, GuestAnswer, ProbeOutcome,
        ProbeTarget,
    },
};

use crate::{
    disk::Path,
    world::{Machine, Memory, Vmm, World},
};

/// The guest port of a simulated machine.
#[derive(Debug, Clone)]
pub struct SimGuest {
    machine: Machine,
}

impl SimGuest {
    /// The guest port of `machine`.
    #[must_use]
    pub const fn new(machine: Machine) -> Self {
        Self { machine }
    }
}

fn unreachable(instance: &InstanceRef) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot reach the agent of {instance}: no VMM"))
}

impl World {
    /// Notes whether the guest is asked to be quiet or to save what it has, and does not hear it.
    fn note_silence(&mut self, instance: &InstanceRef, act: &GuestAct) {
        let Some(vmm) = self.vmms.get_mut(&instance.instance) else { return };
        let Some(guest) = &mut vmm.guest else { return };
        match act {
            GuestAct::Quiesce => guest.is_forced = !guest.agent_answers,
            GuestAct::Drain { .. } | GuestAct::Checkpoint { .. } if !guest.agent_answers => {
                guest.is_saved = guest.is_saved.map(|_| true);
            }
            GuestAct::Await { .. }
            | GuestAct::Configure { .. }
            | GuestAct::Drain { .. }
            | GuestAct::Checkpoint { .. }
            | GuestAct::Restore { .. }
            | GuestAct::Routes(_)
            | GuestAct::Wake { .. }
            | GuestAct::RefreshSecrets { .. }
            | GuestAct::Ready { .. }
            | GuestAct::Thaw
            | GuestAct::Resize
            | GuestAct::Shutdown { .. } => {}
        }
    }

    /// The guest that can answer now.
    fn awake(&mut self, instance: &InstanceRef) -> Result<Option<&mut Memory>, Error> {
        let vmm = self.vmms.get_mut(&instance.instance).ok_or_else(|| unreachable(instance))?;
        let can_answer = vmm.phase == Phase::Running;
        Ok(vmm.guest.as_mut().filter(|guest| can_answer && guest.agent_answers))
    }
}

impl World {
    /// What comes of a guest's packet: its own gateway resolves names, neighbours refuse, and the
    /// rest hears of it only when no wall stands.
    fn outcome(&self, net: NetId, target: &ProbeTarget) -> ProbeOutcome {
        let owner = |of: &Vmm| {
            let (net, offset) = of.tap?;
            Some((net, self.bridges.get(&net)?.subnet.address(offset)?))
        };
        let mut guests = self.vmms.values().filter_map(owner);
        let gateway = self.bridges.get(&net).map(|network| network.subnet.gateway());
        if gateway == Some(target.address) && target.port == 53 {
            return ProbeOutcome::Reachable;
        }
        let has_tables = self.firewall.is_some() && !self.firewall_altered;
        let is_walled = has_tables || self.routes.contains_key(&net);
        match guests.find(|(_, address)| *address == target.address) {
            Some((of, _)) if of == net || !is_walled => ProbeOutcome::Refused,
            Some(_) | None => ProbeOutcome::Silent,
        }
    }
}

impl Guest for SimGuest {
    fn probe(
        &self,
        instance: &InstanceRef,
        targets: &[ProbeTarget],
        _: Duration,
    ) -> Result<Vec<ProbeOutcome>, Error> {
        let mut world = self.machine.world();
        world.awake(instance)?.ok_or_else(|| unreachable(instance))?;
        let vmm = world.vmms.get(&instance.instance).ok_or_else(|| unreachable(instance))?;
        let (net, _) = vmm.tap.ok_or_else(|| unreachable(instance))?;
        Ok(targets.iter().map(|target| world.outcome(net, target)).collect())
    }

    fn ask(&self, instance: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error> {
        let mut world = self.machine.world();
        let fresh = world.entropy();
        world.note_silence(instance, act);
        let Some(guest) = world.awake(instance)? else { return Ok(GuestAnswer::Silent) };
        match act {
            GuestAct::Ready { .. } if guest.is_frozen => return Ok(GuestAnswer::Silent),
            GuestAct::Await { .. } | GuestAct::Ready { .. } => {}
            GuestAct::Configure { generation, .. } => {
                guest.is_held = false;
                guest.learn(*generation, fresh);
            }
            GuestAct::Drain { .. } => {
                if let Some(why) = &guest.refuses_drain {
                    return Ok(GuestAnswer::Refused(why.clone()));
                }
                guest.is_frozen = false;
                guest.is_saved = guest.is_saved.map(|_| false);
            }
            // A freeze of a sleep that was not finished is undone by either.
            GuestAct::Checkpoint { .. } => {
                guest.is_frozen = false;
                guest.is_saved = Some(true);
            }
            GuestAct::Restore { .. } => {
                let is_early = guest.is_frozen || guest.is_unaware;
                if is_early {
                    let what = format!("{instance} was restored before it knew that it woke");
                    world.violations.push(what);
                }
            }
            GuestAct::Routes(routes) => guest.routes = Some((**routes).clone()),
            GuestAct::Quiesce => {
                let is_unsaved = guest.is_saved == Some(false);
                guest.is_frozen = true;
                if is_unsaved {
                    let what = format!("{instance} was frozen with its integrations unsaved");
                    world.violations.push(what);
                }
                world.disk.sync(&Path::Volume(instance.clone()));
            }
            GuestAct::Wake { generation, secrets, .. } => {
                let is_old = guest.secrets.epoch < *secrets;
                guest.learn(*generation, fresh);
                guest.is_frozen = false;
                guest.is_saved = guest.is_saved.map(|_| false);
                if is_old {
                    world.read_secrets(instance, *secrets);
                }
            }
            GuestAct::RefreshSecrets { epoch } => world.read_secrets(instance, *epoch),
            GuestAct::Thaw => {
                guest.is_frozen = false;
                guest.is_saved = guest.is_saved.map(|_| false);
            }
            GuestAct::Resize => {}
            GuestAct::Shutdown { .. } => {
                world.disk.sync(&Path::Volume(instance.clone()));
                world.end_vmm(&instance.instance, Ending::Exited(0));
            }
        }
        Ok(GuestAnswer::Done)
    }

    fn metrics(&self, instance: &InstanceRef) -> Result<Option<GuestMetrics>, Error> {
        let mut world = self.machine.world();
        Ok(world.awake(instance)?.map(|_| GuestMetrics::default()))
    }

    fn copy_in(
        &self,
        instance: &InstanceRef,
        _path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error> {
        if self.machine.world().awake(instance)?.is_none() {
            return Err(unreachable(instance));
        }
        let bytes = std::io::copy(stream, &mut std::io::sink()).map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot read the stream").because(&error)
        })?;
        Ok(CopyReport { entries: 1, bytes })
    }

    fn copy_out(
        &self,
        _: &InstanceRef,
        path: &str,
        _: &mut dyn Write,
    ) -> Result<CopyReport, Error> {
        Err(Error::new(ErrorKind::NotFound, format!("a simulated guest has no {path}")))
    }

    fn exec(
        &self,
        instance: &InstanceRef,
        request: &ExecRequest,
        mut streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        let mut world = self.machine.world();
        let silent =
            || Error::new(ErrorKind::Unavailable, format!("the agent of {instance} is silent"));
        let guest = world.awake(instance)?.ok_or_else(silent)?;
        if guest.is_frozen {
            return Err(silent());
        }
        let command = request.argv.first().map_or("", String::as_str);
        let (answer, code) = match command {
            "counter" => (guest.counter.to_string(), 0),
            "increment" => {
                guest.counter += 1;
                (guest.counter.to_string(), 0)
            }
            "random" => {
                let drawn = guest.draw();
                if !world.draws.insert(drawn) {
                    world
                        .violations
                        .push(format!("{instance} drew a random number that was drawn before"));
                }
                (drawn.to_string(), 0)
            }
            "secrets" => (guest.secrets.content.to_string(), 0),
            "write" => {
                world.disk.write_volume(instance);
                (String::new(), 0)
            }
            _ => (String::new(), 127),
        };
        writeln!(streams.stdout, "{answer}").map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot pass the output on").because(&error)
        })?;
        Ok(ExecStatus::Code(code))
    }
}
