//! Ports of the host that lead to an instance: claimed with its record, in force with the firewall.

use mvm_core::{
    error::{Error, ErrorKind},
    event::EventKind,
    id::{InstanceRef, Subject},
    instance::{Instance, Want},
    observed::Listening,
    port::Transaction,
    publish::Publish,
};

use crate::{
    engine::{Context, Engine, Telling},
    outcome::{Made, Outcome},
    store::records,
};

/// What becomes of the ports that are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// They lead to the instance.
    Begin,
    /// They do not.
    End,
}

/// Gives the ports to the instance, each of them to nobody else's.
pub(crate) fn claim(
    tx: &mut dyn Transaction,
    record: &mut Instance,
    ports: &[Publish],
) -> Result<(), Error> {
    let owner = record.instance.to_string();
    for port in ports {
        if record.publish.contains(port) {
            continue;
        }
        if let Some(other) = record.publish.iter().find(|held| held.claim() == port.claim()) {
            let message = format!("cannot publish {port}: {owner} has {other} already");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        tx.claim(&port.claim(), &owner)
            .map_err(|error| error.context(format!("cannot publish {port}")))?;
        record.publish.push(*port);
    }
    record.publish.sort_unstable();
    Ok(())
}

/// Whether a program of the host holds a port that shall lead to a guest.
fn holds(program: &Listening, port: &Publish) -> bool {
    let is_elsewhere = matches!((program.address, port.address), (Some(a), Some(b)) if a != b);
    program.protocol == port.protocol && program.port == port.host && !is_elsewhere
}

impl Engine {
    /// Refuses ports that a program of the host listens on: it would not be reached any more.
    pub(crate) fn refuse_taken(&self, ports: &[Publish]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let listening = self.ports.host.observe_node()?.listening;
        let taken = |port: &&Publish| listening.iter().any(|program| holds(program, port));
        ports.iter().find(taken).map_or(Ok(()), |port| {
            let (host, protocol) = (port.host, port.protocol);
            let message = format!("cannot publish {port}: a program of this host listens there");
            Err(Error::new(ErrorKind::Conflict, message)
                .hint(format!("see which: ss --{protocol} -lpn sport = :{host}")))
        })
    }

    pub(crate) fn instance_publish(
        &self,
        cx: &Context,
        id: &InstanceRef,
        ports: &[Publish],
        what: Publishing,
    ) -> Result<Outcome, Error> {
        let _lock = self.lock(&Subject::Instance(id.clone()))?;
        self.refuse_new(id, ports, what)?;
        let record = self.within(|tx| self.record_ports(tx, cx, id, ports, what))?;
        self.sync_firewall(&record.network)?;
        Ok(Outcome { made: Some(Made::Instance(Box::new(record))), ..Outcome::default() })
    }

    /// As [`Engine::refuse_taken`], of the ports that the instance does not have yet.
    pub(crate) fn refuse_new(
        &self,
        id: &InstanceRef,
        ports: &[Publish],
        what: Publishing,
    ) -> Result<(), Error> {
        if what == Publishing::End {
            return Ok(());
        }
        let held = self.within(|tx| records::instance(tx, id))?.publish;
        let new: Vec<Publish> = ports.iter().filter(|port| !held.contains(port)).copied().collect();
        self.refuse_taken(&new)
    }

    /// Changes the ports in the record, with their claims.
    pub(crate) fn record_ports(
        &self,
        tx: &mut dyn Transaction,
        cx: &Context,
        id: &InstanceRef,
        ports: &[Publish],
        what: Publishing,
    ) -> Result<Instance, Error> {
        let mut record = records::instance(tx, id)?;
        if record.want == Want::Destroyed {
            let message = format!("{id} is being destroyed");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let before = record.publish.clone();
        let kind = match what {
            Publishing::Begin => {
                claim(tx, &mut record, ports)?;
                EventKind::InstancePublished
            }
            Publishing::End => {
                release(tx, &mut record, ports)?;
                EventKind::InstanceUnpublished
            }
        };
        if record.publish == before {
            return Ok(record);
        }
        records::put(tx, &mut record)?;
        records::raise_network_generation(tx)?;
        let names: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let event = self
            .event(&cx.actor, &id.tenant, kind)
            .of_pool(&id.pool)
            .of_instance(&id.instance)
            .with("ports", names.join(" "));
        tx.append(&event)?;
        Ok(record)
    }
}

fn release(
    tx: &mut dyn Transaction,
    record: &mut Instance,
    ports: &[Publish],
) -> Result<(), Error> {
    let owner = record.instance.to_string();
    for port in ports {
        let Some(place) = record.publish.iter().position(|held| held == port) else {
            let message = format!("{owner} does not have {port}");
            return Err(Error::new(ErrorKind::NotFound, message)
                .hint(format!("see what it has: mvm --json instance list {owner}")));
        };
        record.publish.remove(place);
        tx.release(&port.claim(), &owner)?;
    }
    Ok(())
}
