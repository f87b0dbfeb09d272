//! Guests of the small world: they answer Done unless told otherwise, and only while they run.

use std::time::Duration;

use mvm_core::{
    error::Error,
    id::InstanceRef,
    meter::{CopyReport, GuestMetrics},
    observed::Phase,
    port::*,
};

use super::World;

impl Guest for World {
    fn probe(
        &self,
        _: &InstanceRef,
        targets: &[ProbeTarget],
        _: Duration,
    ) -> Result<Vec<ProbeOutcome>, Error> {
        let reached = self.look().reached.clone();
        let outcome = |target: &ProbeTarget| match reached.contains(&(target.address, target.port))
        {
            true => ProbeOutcome::Reachable,
            false => ProbeOutcome::Silent,
        };
        Ok(targets.iter().map(outcome).collect())
    }

    fn ask(&self, id: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error> {
        let answer = self.answer(id, act);
        self.tick();
        answer
    }

    fn metrics(&self, id: &InstanceRef) -> Result<Option<GuestMetrics>, Error> {
        Ok(self.look().metrics.get(&id.instance).cloned())
    }

    fn copy_in(
        &self,
        id: &InstanceRef,
        path: &str,
        stream: &mut dyn std::io::Read,
    ) -> Result<CopyReport, Error> {
        self.copied_in(id, path, stream)
    }

    fn copy_out(
        &self,
        _: &InstanceRef,
        _: &str,
        _: &mut dyn std::io::Write,
    ) -> Result<CopyReport, Error> {
        Ok(CopyReport::default())
    }

    fn exec(
        &self,
        id: &InstanceRef,
        request: &ExecRequest,
        streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        self.executed(id, request, streams)
    }
}

impl World {
    fn answer(&self, id: &InstanceRef, act: &GuestAct) -> Result<GuestAnswer, Error> {
        let mut content = self.look();
        content.asked.push(act.clone());
        let name = match act {
            GuestAct::Await { .. } => "await",
            GuestAct::Configure { .. } => "configure",
            GuestAct::Drain { .. } => "drain",
            GuestAct::Checkpoint { .. } => "checkpoint",
            GuestAct::Restore { .. } => "restore",
            GuestAct::Routes(_) => "routes",
            GuestAct::Quiesce => "quiesce",
            GuestAct::Wake { .. } => "wake",
            GuestAct::RefreshSecrets { .. } => "refresh",
            GuestAct::Ready { .. } => "ready",
            GuestAct::Thaw => "thaw",
            GuestAct::Resize => "resize",
            GuestAct::Shutdown { .. } => "shutdown",
        };
        if content.dying_at == Some(name) && content.vmms.contains_key(&id.instance) {
            content.die(&id.instance);
        }
        if content.vmms.get(&id.instance).is_none_or(|vmm| vmm.phase != Phase::Running) {
            return Ok(GuestAnswer::Silent);
        }
        Ok(content.answers.get(name).cloned().unwrap_or(GuestAnswer::Done))
    }
}
