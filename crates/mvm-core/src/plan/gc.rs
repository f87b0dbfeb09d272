//! What nothing uses any more (SPEC §1.15).
//!
//! These functions choose, and refuse to know sizes and order of work. What `current` names, what
//! any existing instance boots, and the newest builds always stay. Directories of tenants, pools and
//! instances are never litter: a store that was lost can be rebuilt from them.

use std::collections::BTreeSet;

use crate::{
    effect::Effect,
    id::{ImageHash, InstanceId, InstanceRef},
    instance::Instance,
    net::{NetId, Offset},
    observed::{ObservedInstance, ObservedNode, ObservedPool, ObservedStock},
    plan::{self, Step},
    pool::Pool,
    units::Generation,
    volume::VolumeEffect,
};

/// The images of a pool that stay: the current one, those of its instances and of a roll, and the `keep`
/// newest.
#[must_use]
pub fn kept(pool: &Pool, instances: &[Instance], keep: usize) -> BTreeSet<ImageHash> {
    let mut kept = BTreeSet::new();
    for revision in &pool.revisions {
        if kept.len() < keep.max(1) {
            kept.insert(revision.image.clone());
        }
    }
    kept.extend(pool.current().cloned());
    // What a roll may have to return to is in nobody's use once all were replaced.
    kept.extend(pool.rolling.iter().flat_map(|roll| [roll.to.clone(), roll.from.clone()]));
    let own = instances.iter().filter(|one| one.instance.pool_ref() == pool.pool);
    kept.extend(own.filter_map(|one| one.image.clone()));
    kept
}

/// The builds of a pool on disk that may go.
#[must_use]
pub fn revisions(pool: &Pool, kept: &BTreeSet<ImageHash>, seen: &ObservedPool) -> Vec<Effect> {
    let spare = seen
        .revisions
        .iter()
        .filter(|image| !kept.contains(*image) && seen.current.as_ref() != Some(*image));
    spare
        .map(|image| Effect::RemoveRevision { pool: pool.pool.clone(), image: image.clone() })
        .collect()
}

/// What an instance at rest left behind, by its own plan; nothing of one that is on its way.
#[must_use]
pub fn leftovers(record: &Instance, seen: &ObservedInstance) -> Vec<Effect> {
    if record.in_flight() || plan::truth::notice(record, seen).is_some() {
        return Vec::new();
    }
    let generation = seen.firewall.unwrap_or(Generation(0));
    let steps = plan::instance::plan(record, seen, generation);
    let snapshots = steps.into_iter().filter_map(|step| match step {
        Step::Do(effect @ Effect::RemoveSnapshot { .. }) => Some(effect),
        Step::Do(_) | Step::Ask(_) | Step::Record(_) | Step::Tell { .. } | Step::SyncFirewall => {
            None
        }
    });
    snapshots.collect()
}

/// The older log files of these instances.
#[must_use]
pub fn logs(stock: &ObservedStock, of: &dyn Fn(&InstanceRef) -> bool) -> Vec<Effect> {
    let theirs = stock.rotated_logs.iter().filter(|instance| of(instance));
    theirs.cloned().map(Effect::RemoveRotatedLogs).collect()
}

/// Images that are in nobody's use, and what was fetched for making them.
#[must_use]
pub fn stock(stock: &ObservedStock, used: &BTreeSet<ImageHash>) -> Vec<Effect> {
    let spare = stock.images.iter().filter(|image| !used.contains(*image));
    let mut effects: Vec<Effect> = spare.cloned().map(Effect::RemoveImage).collect();
    if stock.downloads {
        effects.push(Effect::RemoveDownloads);
    }
    effects
}

/// Versions of Firecracker that nothing runs or needs.
#[must_use]
pub fn versions(stock: &ObservedStock) -> Vec<Effect> {
    let spare = stock.versions.iter().filter(|one| !one.is_used);
    spare.map(|one| Effect::RemoveVersion(one.version.clone())).collect()
}

/// Which of these removals, each with the bytes it gives back, bring what stays within `budget` bytes: the
/// first ones, as many as it takes.
#[must_use]
pub fn beyond(removals: &[(Effect, u64)], budget: u64) -> &[(Effect, u64)] {
    let mut stays: u64 = removals.iter().map(|(_, bytes)| bytes).sum();
    let mut gone = 0;
    for (_, bytes) in removals {
        if stays <= budget {
            break;
        }
        stays -= bytes;
        gone += 1;
    }
    removals.get(..gone).unwrap_or_default()
}

/// What bears one of our names on the host and belongs to no record, in the order in which it can
/// go. `networks` are those of all tenants.
#[must_use]
pub fn orphans(
    node: &ObservedNode,
    instances: &[Instance],
    networks: &BTreeSet<NetId>,
) -> Vec<Effect> {
    let known: BTreeSet<&InstanceId> = instances.iter().map(|one| &one.instance.instance).collect();
    let taps: BTreeSet<(NetId, Offset)> =
        instances.iter().map(|one| (one.network.net, one.offset)).collect();
    let unknown = |ids: &[InstanceId]| -> Vec<InstanceId> {
        ids.iter().filter(|id| !known.contains(id)).cloned().collect()
    };
    let mut processes = unknown(&node.processes);
    processes.extend(unknown(&node.runs));
    processes.sort();
    processes.dedup();
    let mut effects: Vec<Effect> = processes.into_iter().map(Effect::RemoveVmm).collect();
    let lost = node.taps.iter().filter(|tap| !taps.contains(tap));
    effects.extend(lost.map(|(net, offset)| Effect::RemoveTap { net: *net, offset: *offset }));
    effects.extend(unknown(&node.jails).into_iter().map(Effect::RemoveJail));
    let open = unknown(&node.mappings).into_iter();
    effects.extend(open.map(|id| Effect::Volume(VolumeEffect::Close(id))));
    effects.extend(unknown(&node.cgroups).into_iter().map(Effect::RemoveCgroup));
    let strange = |net: &&NetId| !networks.contains(net);
    effects.extend(node.routes.iter().filter(strange).copied().map(Effect::RemoveRoutes));
    effects.extend(node.bridges.iter().filter(strange).copied().map(Effect::RemoveBridge));
    effects
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;
    use crate::{
        plan::fixture::{instance, seen},
        pool::{Counts, PoolPolicy, Resources, Revision, Role, RuntimePolicy, Source},
        state::State,
        units::{Mib, Timestamp, Vcpus},
    };

    fn image(digit: &str) -> ImageHash {
        digit.repeat(64).parse().unwrap()
    }

    fn pool(images: &[&str]) -> Pool {
        let revision =
            |digit: &&str| Revision { image: image(digit), built_at: Timestamp(0), source: None };
        Pool {
            pool: "acme/workers".parse().unwrap(),
            source: Source::Image("default".to_owned()),
            profile: "minimal".to_owned(),
            role: Role::Worker,
            instance_resources: Resources::new(Vcpus(1), Mib(128), Mib(0)),
            desired_counts: Counts::default(),
            runtime_policy: RuntimePolicy::default(),
            secret_scopes: Vec::new(),
            integrations: Vec::new(),
            routing_table: None,
            revisions: images.iter().map(revision).collect(),
            rolled_back_to: None,
            rolling: None,
            policy: PoolPolicy::default(),
            destroying: false,
            created_at: Timestamp(0),
            generation: Generation(0),
        }
    }

    #[test]
    fn what_is_beyond_the_budget_goes_in_order_and_no_more() {
        let removals: Vec<_> =
            ["a", "b", "c"].map(|digit| (Effect::RemoveImage(image(digit)), 100)).to_vec();
        let gone = |budget| beyond(&removals, budget).len();
        assert_eq!([300, 299, 200, 199, 1, 0].map(gone), [0, 1, 1, 2, 3, 3]);
        let first = beyond(&removals, 250).first().map(|(effect, _)| effect.clone());
        assert_eq!(first, Some(Effect::RemoveImage(image("a"))));
    }

    #[test]
    fn the_newest_the_current_and_what_instances_boot_stay() {
        let mut pool = pool(&["5", "4", "3", "2", "1"]);
        pool.rolled_back_to = Some(image("2"));
        let mut instance = instance(1, State::Stopped);
        instance.image = Some(image("1"));
        let kept = kept(&pool, &[instance], 2);
        assert_eq!(kept, ["5", "4", "2", "1"].iter().map(|digit| image(digit)).collect());
        let seen = ObservedPool {
            revisions: ["1", "2", "3", "4", "5"].iter().map(|digit| image(digit)).collect(),
            current: Some(image("2")),
            files: true,
        };
        let going = revisions(&pool, &kept, &seen);
        let third = Effect::RemoveRevision { pool: pool.pool.clone(), image: image("3") };
        assert_eq!(going, [third]);
    }

    #[test]
    fn keeping_none_keeps_the_newest() {
        assert_eq!(kept(&pool(&["2", "1"]), &[], 0), BTreeSet::from([image("2")]));
    }

    #[test]
    fn only_what_has_no_record_is_an_orphan() {
        let instance = instance(1, State::Stopped);
        let (own, other) = (instance.instance.instance.clone(), "i-ffffffff".parse().unwrap());
        let net = instance.network.net;
        let node = ObservedNode {
            jails: vec![own.clone(), other],
            cgroups: vec![own],
            taps: vec![(net, instance.offset), (net, Offset(99))],
            bridges: vec![net, NetId(77)],
            ..ObservedNode::default()
        };
        let names: Vec<_> =
            orphans(&node, &[instance], &BTreeSet::from([net])).iter().map(Effect::name).collect();
        assert_eq!(names, ["remove_tap", "remove_jail", "remove_bridge"]);
    }

    #[test]
    fn nothing_is_left_over_of_an_instance_that_is_on_its_way() {
        let mut instance = instance(1, State::Stopped);
        instance.want = crate::instance::Want::Running;
        assert!(leftovers(&instance, &seen(None)).is_empty());
    }
}
