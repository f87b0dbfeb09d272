//! What results look like: the documents of `--json`, and the same facts as text. One file a noun.

mod events;
mod instance;
mod net;
mod node;
mod outcome;
mod pool;
mod tenant;

pub(crate) use events::events;
pub(crate) use instance::{Instance, instances, logs};
pub(crate) use net::{Verified, verified};
pub(crate) use node::{Node, node};
pub(crate) use outcome::{outcome, outcome_json, preview};
pub(crate) use pool::{Pool, pool, pools};
pub(crate) use tenant::{Tenant, tenant, tenants};
