//! What a change did, or would do.

use mvm::{Acted, Deferral, Made, Outcome, Preview, Removal};
use serde_json::{Value, json};

use super::{pool::counts, size};

/// The document of a change: the address of what was made first, then everything else.
pub(crate) fn outcome_json(outcome: &Outcome) -> Value {
    let mut document = json!(outcome);
    let address = match &outcome.made {
        Some(Made::Tenant(tenant)) => Some(("tenant", tenant.tenant_id.to_string())),
        Some(Made::Secrets { tenant, .. }) => Some(("tenant", tenant.to_string())),
        Some(Made::Pool(pool)) => Some(("pool", pool.pool.to_string())),
        Some(Made::Image(image)) => Some(("image", image.to_string())),
        Some(Made::Instance(one)) => Some(("instance", one.instance.to_string())),
        Some(Made::Template(one)) => Some(("template", one.template_id.to_string())),
        Some(Made::Key(tenant)) => Some(("tenant", tenant.to_string())),
        Some(Made::Removed(address)) => Some(("removed", address.clone())),
        None => None,
    };
    if let (Some((key, address)), Some(fields)) = (address, document.as_object_mut()) {
        fields.insert(key.to_owned(), Value::String(address));
    }
    document
}

/// What a change did, in sentences.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    match &outcome.made {
        Some(Made::Tenant(tenant)) => lines.push(format!(
            "Tenant {} has network {} (net-id {}).",
            tenant.tenant_id, tenant.network.subnet, tenant.network.net
        )),
        Some(Made::Secrets { tenant, secrets }) => lines.push(format!(
            "Tenant {tenant} has {} secrets, epoch {}.",
            secrets.count, secrets.epoch
        )),
        Some(Made::Pool(pool)) => {
            lines.push(format!("Pool {}: {}.", pool.pool, counts(pool.desired_counts)));
        }
        Some(Made::Image(image)) => lines.push(format!("The current image is {}.", image.short())),
        Some(Made::Instance(one)) => {
            let address = one.address().map(|address| format!(" at {address}")).unwrap_or_default();
            lines.push(format!("{} is {}{address}.", one.instance, one.state));
        }
        Some(Made::Template(one)) => {
            let built = one.images().count();
            let count = one.variants.len();
            lines.push(format!("Template {}: {built} of {count} variants built.", one.template_id));
        }
        Some(Made::Key(tenant)) => {
            lines.push(format!("Tenant {tenant} has another key; the old one opens nothing."));
        }
        Some(Made::Removed(address)) => lines.push(format!("{address} is gone.")),
        None => {}
    }
    lines.extend(outcome.acts.iter().map(act));
    for change in &outcome.changes {
        let from = change.from.map(|from| format!("{from} → ")).unwrap_or_default();
        lines.push(format!("{}: {from}{} ({} ms)", change.instance, change.to, change.duration_ms));
    }
    lines.extend(outcome.deferrals.iter().map(left_alone));
    lines.extend(removals(&outcome.removals, "removed"));
    lines.extend(outcome.notes.iter().map(|note| format!("Note: {note}.")));
    if lines.is_empty() {
        let words =
            if outcome.failures.is_empty() { "Nothing to do." } else { "Nothing was done." };
        lines.push(words.to_owned());
    }
    lines.join("\n")
}

/// `acme/web: pool scale (running 2, warm 1)`.
fn act(act: &Acted) -> String {
    let figures: Vec<String> =
        act.detail.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let detail =
        if figures.is_empty() { String::new() } else { format!(" ({})", figures.join(", ")) };
    format!("{}: {}{detail}", act.subject, act.act.replace('_', " "))
}

fn left_alone(deferral: &Deferral) -> String {
    format!("{}: left alone: {}", deferral.instance, deferral.reason)
}

/// One line for each thing that goes, and one for all of them.
fn removals(all: &[Removal], verb: &str) -> Vec<String> {
    if all.is_empty() {
        return Vec::new();
    }
    let what = |one: &Removal| one.effect.trim_start_matches("remove_").replace('_', " ");
    let line =
        |one: &Removal| format!("{verb}: {} {} ({})", what(one), one.subject, size(one.bytes));
    let mut lines: Vec<String> = all.iter().map(line).collect();
    let bytes = all.iter().map(|one| one.bytes).sum();
    lines.push(format!("{} in all, {} given back.", all.len(), size(bytes)));
    lines
}

/// What a change would do.
pub(crate) fn preview(preview: &Preview) -> String {
    let mut lines = Vec::new();
    if let Some(made) = &preview.made {
        lines.push(format!("would make: {}", json!(made)));
    }
    lines.extend(preview.steps.iter().map(|step| format!("would do: {}", json!(step))));
    lines.extend(preview.assignments.iter().map(|one| format!("would assign: {}", json!(one))));
    lines.extend(preview.acts.iter().map(|one| format!("would do: {}", act(one))));
    lines.extend(preview.deferrals.iter().map(left_alone));
    lines.extend(
        preview.failures.iter().map(|one| format!("{}: would fail: {}", one.subject, one.error)),
    );
    lines.extend(removals(&preview.removals, "would remove"));
    lines.extend(preview.notes.iter().map(|note| format!("Note: {note}.")));
    lines.extend(preview.destroyed.iter().map(|one| format!("would destroy: {one}")));
    if lines.is_empty() { "Nothing to do.".to_owned() } else { lines.join("\n") }
}
