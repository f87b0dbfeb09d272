//! Telling gateways who is available.
//!
//! Best effort, and never in anybody's way: a gateway that does not answer in time is left alone,
//! for it is told anew at its next start or wake, and at the next change. Nothing is locked here.
//! What is told later was read later, and bears a greater number; gateways drop what is older.

use mvm_core::{
    error::Error,
    id::{InstanceRef, PoolId, PoolRef},
    instance::Instance,
    pool::{Pool, Role},
    port::{GuestAct, GuestAnswer, Transaction},
    route::{Backend, Routes, RoutingTable},
};

use crate::{engine::Engine, run, store::records};

/// A gateway and what it shall lead traffic by.
type Letter = (InstanceRef, Routes);

impl Engine {
    /// Tells the running gateways that belong to a pool, or lead to it, who is available.
    pub(crate) fn share_routes(&self, changed: &PoolRef) {
        match self.within(|tx| letters(tx, changed)) {
            Ok(letters) => {
                run::each(self.config.parallel, &letters, |letter| self.deliver(letter));
            }
            Err(error) => tracing::warn!(pool = %changed, %error, "cannot work out the routes"),
        }
    }

    fn deliver(&self, (gateway, routes): &Letter) {
        let generation = routes.generation;
        match self.ports.guest.ask(gateway, &GuestAct::Routes(Box::new(routes.clone()))) {
            Ok(GuestAnswer::Done | GuestAnswer::Partly(_)) => {
                tracing::debug!(%gateway, generation, "the gateway knows who is available");
            }
            Ok(answer @ (GuestAnswer::Silent | GuestAnswer::Refused(_))) => {
                tracing::warn!(%gateway, generation, ?answer, "the gateway was not told");
            }
            Err(error) => tracing::warn!(%gateway, generation, %error, "the gateway was not told"),
        }
    }
}

/// What the running gateways of a change shall know. Nothing is written when there are none.
fn letters(tx: &mut dyn Transaction, changed: &PoolRef) -> Result<Vec<Letter>, Error> {
    let pools = records::list::<Pool>(tx, changed.tenant.as_str())?;
    let concerned = pools.iter().filter_map(|pool| {
        let table = pool.routing_table.as_ref().filter(|_| pool.role == Role::Gateway)?;
        let is_told = pool.pool == *changed || table.targets().contains(&changed.pool);
        is_told.then_some((&pool.pool, table))
    });
    let concerned: Vec<(&PoolRef, &RoutingTable)> = concerned.collect();
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let all = records::list::<Instance>(tx, changed.tenant.as_str())?;
    let available: Vec<&Instance> = all.iter().filter(|one| one.is_available()).collect();
    let on_call: Vec<&Instance> = all.iter().filter(|one| one.is_on_call()).collect();
    let mut letters = Vec::new();
    for (pool, table) in concerned {
        let routes = Routes {
            backends: table
                .targets()
                .into_iter()
                .map(|id| backends(&available, &on_call, id))
                .collect(),
            ..Routes::alone(table)
        };
        let gateways = available.iter().filter(|one| one.instance.pool_ref() == *pool);
        letters.extend(gateways.map(|one| (one.instance.clone(), routes.clone())));
    }
    if !letters.is_empty() {
        let generation = records::raise_routes_generation(tx)?;
        letters.iter_mut().for_each(|(_, routes)| routes.generation = generation);
    }
    Ok(letters)
}

/// Who takes traffic; when all rest, those whom a connection brings back.
fn backends(
    available: &[&Instance],
    on_call: &[&Instance],
    pool: PoolId,
) -> (PoolId, Vec<Backend>) {
    let of = |all: &[&Instance]| -> Vec<Backend> {
        let those = all.iter().filter(|one| one.instance.pool == pool).filter_map(|one| {
            Some(Backend { instance_id: one.instance.instance.clone(), ip: one.address()? })
        });
        those.collect()
    };
    let awake = of(available);
    let those = if awake.is_empty() { of(on_call) } else { awake };
    (pool, those)
}
