//! The typed view of a transaction: tenants, pools, instances, tombstones and single values.
//!
//! Every write compares the generation that was read and raises it, so that a decision made on an
//! old record is never stored. It refuses to know why a record changes.

use mvm_core::{
    error::{Error, ErrorKind},
    id::{InstanceRef, PoolRef, TemplateId, TenantId, VolumeId},
    instance::Instance,
    net::NetId,
    pool::Pool,
    port::{Store, Table, Transaction},
    quota::Usage,
    template::Template,
    tenant::{Tenant, Tombstone},
    units::{Generation, Timestamp},
    volume::Volume,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::tally;

const NETWORK_GENERATION: &str = "network_generation";
pub(super) const NODE_ID: &str = "node_id";
const ROUTES_GENERATION: &str = "routes_generation";
const CREATIONS: &str = "creations";

/// A record with an address and a count of its changes.
pub trait Record: Serialize + DeserializeOwned {
    /// Where it is kept.
    const TABLE: Table;
    /// Its address.
    fn key(&self) -> String;
    /// Its count of changes.
    fn generation(&mut self) -> &mut Generation;
    /// Whom it costs, and how much; none for what costs nothing.
    fn cost(&self) -> Option<(TenantId, Usage)> {
        None
    }
}

impl Record for Tenant {
    const TABLE: Table = Table::Tenants;
    fn key(&self) -> String {
        self.tenant_id.to_string()
    }
    fn generation(&mut self) -> &mut Generation {
        &mut self.generation
    }
}

impl Record for Pool {
    const TABLE: Table = Table::Pools;
    fn key(&self) -> String {
        self.pool.to_string()
    }
    fn generation(&mut self) -> &mut Generation {
        &mut self.generation
    }
}

impl Record for Instance {
    const TABLE: Table = Table::Instances;
    fn key(&self) -> String {
        self.instance.to_string()
    }
    fn generation(&mut self) -> &mut Generation {
        &mut self.generation
    }
    fn cost(&self) -> Option<(TenantId, Usage)> {
        Some((self.instance.tenant.clone(), Usage::of([self])))
    }
}

impl Record for Volume {
    const TABLE: Table = Table::Volumes;
    fn key(&self) -> String {
        self.volume.to_string()
    }
    fn generation(&mut self) -> &mut Generation {
        &mut self.generation
    }
}

impl Record for Template {
    const TABLE: Table = Table::Templates;
    fn key(&self) -> String {
        self.template_id.to_string()
    }
    fn generation(&mut self) -> &mut Generation {
        &mut self.generation
    }
}

/// Runs `work` in a transaction and returns what it made.
///
/// # Errors
/// What `work` returned, or why the store failed.
pub fn within<T>(
    store: &dyn Store,
    mut work: impl FnMut(&mut dyn Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut made = None;
    store.transact(&mut |tx| {
        made = Some(work(tx)?);
        Ok(())
    })?;
    made.ok_or_else(|| Error::new(ErrorKind::Failed, "the store committed without doing the work"))
}

/// Runs `work` in a transaction that is rolled back, and returns what it would have made.
///
/// # Errors
/// What `work` returned, or why the store failed.
pub fn rehearse<T>(
    store: &dyn Store,
    mut work: impl FnMut(&mut dyn Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut made = None;
    let end = store.transact(&mut |tx| {
        made = Some(work(tx)?);
        Err(Error::new(ErrorKind::Failed, "a rehearsal is not committed"))
    });
    match (made, end) {
        (Some(made), _) => Ok(made),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(Error::new(ErrorKind::Failed, "the store did not do the work")),
    }
}

fn parse<R: DeserializeOwned>(table: Table, key: &str, value: &str) -> Result<R, Error> {
    serde_json::from_str(value).map_err(|e| {
        Error::new(ErrorKind::Integrity, format!("the record {key} of {table:?} is damaged"))
            .because(&e)
    })
}

/// A record, if it is there.
///
/// # Errors
/// `Integrity` when it cannot be read; why the store failed.
pub fn find<R: Record>(tx: &mut dyn Transaction, key: &str) -> Result<Option<R>, Error> {
    tx.get(R::TABLE, key)?.map(|value| parse(R::TABLE, key, &value)).transpose()
}

/// The pools at or below `prefix` but those of builders, which nobody asked for.
///
/// # Errors
/// As [`find`].
pub fn pools(tx: &mut dyn Transaction, prefix: &str) -> Result<Vec<Pool>, Error> {
    let all = list::<Pool>(tx, prefix)?;
    Ok(all.into_iter().filter(|pool| !pool.pool.is_of_builders()).collect())
}

/// The instances at or below `prefix` but builders.
///
/// # Errors
/// As [`find`].
pub fn instances(tx: &mut dyn Transaction, prefix: &str) -> Result<Vec<Instance>, Error> {
    let all = list::<Instance>(tx, prefix)?;
    Ok(all.into_iter().filter(|one| !one.instance.pool_ref().is_of_builders()).collect())
}

/// All records at or below `prefix`.
///
/// # Errors
/// As [`find`].
pub fn list<R: Record>(tx: &mut dyn Transaction, prefix: &str) -> Result<Vec<R>, Error> {
    let rows = tx.list(R::TABLE, prefix)?;
    rows.iter().map(|(key, value)| parse(R::TABLE, key, value)).collect()
}

/// All records at or below `prefix`, read as something smaller than the whole record.
///
/// # Errors
/// As [`find`].
pub fn list_as<T: DeserializeOwned>(
    tx: &mut dyn Transaction,
    table: Table,
    prefix: &str,
) -> Result<Vec<(String, T)>, Error> {
    let rows = tx.list(table, prefix)?;
    rows.into_iter()
        .map(|(key, value)| {
            let read = parse(table, &key, &value)?;
            Ok((key, read))
        })
        .collect()
}

/// Writes a record whose generation is that of the stored one (0 for a new one), and raises it.
///
/// # Errors
/// `Conflict` when the stored record is another one than was read.
pub fn put<R: Record>(tx: &mut dyn Transaction, record: &mut R) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Stamp {
        generation: Generation,
    }
    let key = record.key();
    let value = tx.get(R::TABLE, &key)?;
    let stored = match &value {
        Some(value) => parse::<Stamp>(R::TABLE, &key, value)?.generation,
        None => Generation(0),
    };
    let read = *record.generation();
    if stored != read {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("{key} was changed by someone else meanwhile"),
        )
        .hint("try again"));
    }
    if let Some((tenant, after)) = record.cost() {
        let old = value.as_deref().map(|value| parse::<R>(R::TABLE, &key, value)).transpose()?;
        let before = old.and_then(|old| old.cost()).map(|(_, cost)| cost).unwrap_or_default();
        tally::shift(tx, &tenant, before, after)?;
    }
    *record.generation() = read.next();
    let value = serde_json::to_string(record)
        .map_err(|e| Error::new(ErrorKind::Failed, format!("cannot write {key}")).because(&e))?;
    tx.put(R::TABLE, &key, &value)
}

/// Removes a record with its claims.
///
/// # Errors
/// As [`find`].
pub fn remove<R: Record>(tx: &mut dyn Transaction, key: &str) -> Result<(), Error> {
    if let Some(old) = find::<R>(tx, key)?
        && let Some((tenant, cost)) = old.cost()
    {
        tally::shift(tx, &tenant, cost, Usage::default())?;
    }
    tx.delete(R::TABLE, key)
}

/// A kept volume that must be there.
///
/// # Errors
/// `NotFound`; as [`find`].
pub fn volume(tx: &mut dyn Transaction, id: &VolumeId) -> Result<Volume, Error> {
    find(tx, id.as_str())?.ok_or_else(|| missing("kept volume", id, "mvm volume list"))
}

/// A template that must be there.
///
/// # Errors
/// `NotFound`; as [`find`].
pub fn template(tx: &mut dyn Transaction, id: &TemplateId) -> Result<Template, Error> {
    find(tx, id.as_str())?.ok_or_else(|| missing("template", id, "mvm template list"))
}

/// A tenant that must be there.
///
/// # Errors
/// `NotFound`; as [`find`].
pub fn tenant(tx: &mut dyn Transaction, id: &TenantId) -> Result<Tenant, Error> {
    find(tx, id.as_str())?.ok_or_else(|| missing("tenant", id, "mvm tenant list"))
}

/// A pool that must be there.
///
/// # Errors
/// `NotFound`, of the tenant if that is what is missing; as [`find`].
pub fn pool(tx: &mut dyn Transaction, id: &PoolRef) -> Result<Pool, Error> {
    if let Some(pool) = find(tx, &id.to_string())? {
        return Ok(pool);
    }
    tenant(tx, &id.tenant)?;
    Err(missing("pool", id, &format!("mvm pool list {}", id.tenant)))
}

/// An instance that must be there.
///
/// # Errors
/// `NotFound`, of the outermost thing that is missing; as [`find`].
pub fn instance(tx: &mut dyn Transaction, id: &InstanceRef) -> Result<Instance, Error> {
    if let Some(instance) = find(tx, &id.to_string())? {
        return Ok(instance);
    }
    pool(tx, &id.pool_ref())?;
    Err(missing("instance", id, &format!("mvm instance list {}", id.pool_ref())))
}

fn missing(what: &str, id: &dyn std::fmt::Display, list: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {what} {id}"))
        .hint(format!("see what there is: {list}"))
}

/// How often the intended network changed.
///
/// # Errors
/// As [`find`].
pub fn network_generation(tx: &mut dyn Transaction) -> Result<Generation, Error> {
    let value = tx.get(Table::Meta, NETWORK_GENERATION)?;
    value.map_or(Ok(Generation(0)), |v| parse(Table::Meta, NETWORK_GENERATION, &v))
}

/// Sets the count of changes of the intended network, in a store that has none.
///
/// # Errors
/// Why the store failed.
pub fn set_network_generation(
    tx: &mut dyn Transaction,
    generation: Generation,
) -> Result<(), Error> {
    tx.put(Table::Meta, NETWORK_GENERATION, &generation.0.to_string())
}

/// Says that the intended network changed.
///
/// # Errors
/// As [`find`].
pub fn raise_network_generation(tx: &mut dyn Transaction) -> Result<Generation, Error> {
    let next = network_generation(tx)?.next();
    tx.put(Table::Meta, NETWORK_GENERATION, &next.0.to_string())?;
    Ok(next)
}

/// Counts an instance that is made, and says how many there are within the present minute.
///
/// # Errors
/// As [`find`].
pub fn count_creation(tx: &mut dyn Transaction, now: Timestamp) -> Result<u32, Error> {
    let value = tx.get(Table::Meta, CREATIONS)?;
    let last = value.map_or(Ok((0, 0)), |v| parse::<(u64, u32)>(Table::Meta, CREATIONS, &v))?;
    let minute = now.0 / 60_000;
    let count = if last.0 == minute { last.1.saturating_add(1) } else { 1 };
    tx.put(Table::Meta, CREATIONS, &format!("[{minute},{count}]"))?;
    Ok(count)
}

/// Raises the number that the next routes for gateways bear.
///
/// # Errors
/// As [`find`].
pub fn raise_routes_generation(tx: &mut dyn Transaction) -> Result<u64, Error> {
    let value = tx.get(Table::Meta, ROUTES_GENERATION)?;
    let last = value.map_or(Ok(0), |v| parse::<u64>(Table::Meta, ROUTES_GENERATION, &v))?;
    let next = last.saturating_add(1);
    tx.put(Table::Meta, ROUTES_GENERATION, &next.to_string())?;
    Ok(next)
}

/// Lets the next routes bear a number above this one, in a store that has none.
///
/// # Errors
/// Why the store failed.
pub fn set_routes_generation(tx: &mut dyn Transaction, last: u64) -> Result<(), Error> {
    tx.put(Table::Meta, ROUTES_GENERATION, &last.to_string())
}

/// The node's id; made from `draw` on first use.
///
/// # Errors
/// Why the store failed.
pub fn node_id(tx: &mut dyn Transaction, draw: u32) -> Result<String, Error> {
    if let Some(id) = tx.get(Table::Meta, NODE_ID)? {
        return Ok(id);
    }
    let id = format!("node-{draw:08x}");
    tx.put(Table::Meta, NODE_ID, &id)?;
    Ok(id)
}

/// Gives the node an id that it had.
///
/// # Errors
/// Why the store failed.
pub fn set_node_id(tx: &mut dyn Transaction, id: &str) -> Result<(), Error> {
    tx.put(Table::Meta, NODE_ID, id)
}

fn tombstone_key(net: NetId) -> String {
    format!("net/{net}")
}

/// All tombstones.
///
/// # Errors
/// As [`find`].
pub fn tombstones(tx: &mut dyn Transaction) -> Result<Vec<Tombstone>, Error> {
    Ok(list_as(tx, Table::Tombstones, "")?.into_iter().map(|(_, stone)| stone).collect())
}

/// Writes a tombstone.
///
/// # Errors
/// Why the store failed.
pub fn bury(tx: &mut dyn Transaction, stone: &Tombstone) -> Result<(), Error> {
    let value = serde_json::to_string(stone)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot write a tombstone").because(&e))?;
    tx.put(Table::Tombstones, &tombstone_key(stone.network.net), &value)
}

/// Removes a tombstone.
///
/// # Errors
/// Why the store failed.
pub fn unbury(tx: &mut dyn Transaction, stone: &Tombstone) -> Result<(), Error> {
    tx.delete(Table::Tombstones, &tombstone_key(stone.network.net))
}
