//! The arguments of `mvm events`.

use clap::Args;
use mvm::{EventFilter, EventKind, InstanceId, PoolId, Since, TenantId};

/// How many events are shown unless told otherwise.
const LAST: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// The tenant; with --verify all tenants when left away
    #[arg(required_unless_present = "verify")]
    pub(crate) tenant: Option<TenantId>,
    /// How many, newest last [default: 20, or all with --since]
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Print new events as they come, until Ctrl-C
    #[arg(long, short, conflicts_with_all = ["verify", "archived"])]
    pub(crate) follow: bool,
    /// Only from here on: a time (2026-01-31T08:00:00Z), a span (15m, 2h, 3d) or a number in the log
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Check that the log is whole: its hash chain, its anchor in the store, the exported files
    #[arg(long, conflicts_with_all = ["last", "since", "instance", "pool", "event"])]
    pub(crate) verify: bool,
    /// The archived logs of destroyed tenants of this name
    #[arg(long)]
    pub(crate) archived: bool,
    /// Only of this instance
    #[arg(long, value_name = "INSTANCE", value_parser = instance)]
    instance: Option<InstanceId>,
    /// Only of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<PoolId>,
    /// Only of this kind, for example InstanceFailed; may be repeated
    #[arg(long, value_name = "EVENT", value_parser = kind)]
    event: Vec<EventKind>,
}

impl EventsArgs {
    /// Which events are asked for.
    pub(crate) fn filter(&self) -> EventFilter {
        let last = match (self.last, self.since) {
            (Some(last), _) => last,
            (None, Some(_)) => usize::MAX,
            (None, None) => LAST,
        };
        EventFilter {
            since: self.since,
            last,
            pool: self.pool.clone(),
            instance: self.instance.clone(),
            kinds: self.event.clone(),
        }
    }
}

/// The id of an instance, or the last part of its address.
fn instance(text: &str) -> Result<InstanceId, String> {
    let id = text.rsplit('/').next().unwrap_or(text);
    id.parse().map_err(|error: mvm::InvalidId| error.to_string())
}

fn kind(text: &str) -> Result<EventKind, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| format!("{text:?} is not an event: write it as `mvm events` does"))
}
