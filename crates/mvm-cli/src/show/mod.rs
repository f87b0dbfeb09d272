//! What results look like: the documents of `--json`, and the same facts as text. One file a noun.

mod authority;
mod config;
mod dashboard;
mod dev;
mod disk;
mod events;
mod fleet;
mod image;
mod instance;
mod machine;
mod net;
mod node;
mod outcome;
mod pool;
mod stats;
mod template;
mod tenant;
mod upgrade;
mod volume;

pub(crate) use authority::{
    Approval, Invited, PushedTo, RevokedList, RevokedOne, approval, asked, remote_certificate,
    revoked_list,
};
pub(crate) use config::settings;
pub(crate) use dashboard::{Dashboard, dashboard};
pub(crate) use dev::{Dev, SshConfig, dev, ssh_config};
pub(crate) use disk::{Disk, disk};
pub(crate) use events::{audit_reports, event_line, events};
pub(crate) use fleet::{
    Certificate, Request, Signer, Step, Would, acceptance, certificates, remote_figures,
    remote_instances, remote_node, remote_tenants, signer, steps, steps_text,
};
pub(crate) use image::{ImageFile, ImageMade};
pub(crate) use instance::{Instance, instance, instances, logs};
pub(crate) use machine::{Machine, checks, machine};
pub(crate) use net::verified;
pub(crate) use node::{Node, node, rebuilt};
pub(crate) use outcome::{outcome, outcome_json, preview};
pub(crate) use pool::{Pool, pool, pools};
pub(crate) use stats::{
    DiskFigures, Fleet, HealthFigures, MemoryFigures, NetworkFigures, Stats, fleet, stats,
};
pub(crate) use template::{TemplateFile, pushed, template, template_verified, templates};
pub(crate) use tenant::{Secrets, Tenant, secrets, tenant, tenants};
pub(crate) use upgrade::upgrade;
pub(crate) use volume::{volume, volumes};

/// An amount of disk or memory for people, in the largest unit that leaves a whole number.
pub(crate) fn size(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if amount < 10 * 1024 {
            break;
        }
        (amount, unit) = (amount / 1024, larger);
    }
    format!("{amount} {unit}")
}
