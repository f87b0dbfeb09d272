//! Which instances of a pool are replaced by its current build, and in which order.
//!
//! Who runs or is Warm on another build is replaced, the oldest first. Who sleeps keeps the build that is in
//! its memory; who is stopped boots the current one anyway. It refuses to know how one is replaced.

use crate::{
    id::ImageHash,
    instance::{Instance, Want},
    pool::{Pool, Rolling, Taken},
    state::State,
};

/// The roll that begins or goes on with these instances; none when there is nothing to replace.
///
/// One that is being taken back stays so, unless somebody made a third build current. One to a build that is
/// not current any more goes on to the one that is, with the instances that it took.
#[must_use]
pub fn begin(pool: &Pool, instances: &[Instance]) -> Option<Rolling> {
    let to = pool.current()?;
    match &pool.rolling {
        Some(rolling) if rolling.to == *to => return Some(rolling.clone()),
        Some(rolling) if rolling.failed.is_some() && rolling.from == *to => {
            return Some(rolling.clone());
        }
        Some(_) | None => {}
    }
    let old = outdated(instances, to);
    let unfinished: Vec<Taken> =
        pool.rolling.iter().flat_map(|rolling| unfinished(rolling, instances)).collect();
    let runs = |image: &ImageHash| old.iter().any(|one| one.image.as_ref() == Some(image));
    let newest = pool.revisions.iter().map(|revision| &revision.image).find(|image| runs(image));
    let known = pool.rolling.as_ref().map(|rolling| &rolling.from).filter(|from| *from != to);
    let oldest = old.first().and_then(|one| one.image.as_ref());
    let from = known.or(newest).or(oldest).or((!unfinished.is_empty()).then_some(to))?;
    Some(Rolling { to: to.clone(), from: from.clone(), taken: unfinished, failed: None })
}

/// The next ones: those that were begun and are not ready, else up to `batch` of the oldest.
#[must_use]
pub fn next(rolling: &Rolling, instances: &[Instance], batch: usize) -> Vec<Taken> {
    let left = unfinished(rolling, instances);
    if !left.is_empty() {
        return left;
    }
    let take = |one: &&Instance| Taken {
        instance: one.instance.instance.clone(),
        warm: one.parked_by.filter(|_| one.state == State::Warm),
        is_ready: false,
    };
    outdated(instances, &rolling.to).iter().take(batch).map(take).collect()
}

/// Those that would be replaced, in order.
#[must_use]
pub fn all<'a>(rolling: &Rolling, instances: &'a [Instance]) -> Vec<&'a Instance> {
    let left = unfinished(rolling, instances);
    let find = |taken: &Taken| instances.iter().find(|one| one.instance.instance == taken.instance);
    let mut all: Vec<&Instance> = left.iter().filter_map(find).collect();
    for one in outdated(instances, &rolling.to) {
        if !left.iter().any(|taken| taken.instance == one.instance.instance) {
            all.push(one);
        }
    }
    all
}

/// Those that sleep on another build, and keep it.
#[must_use]
pub fn asleep(instances: &[Instance], to: &ImageHash) -> usize {
    let is_old = |one: &&Instance| one.state == State::Sleeping && one.image.as_ref() != Some(to);
    instances.iter().filter(is_old).count()
}

fn unfinished(rolling: &Rolling, instances: &[Instance]) -> Vec<Taken> {
    let is_there = |taken: &&Taken| {
        let mut those = instances.iter().filter(|one| one.want != Want::Destroyed);
        those.any(|one| one.instance.instance == taken.instance)
    };
    rolling.taken.iter().filter(|taken| !taken.is_ready).filter(is_there).cloned().collect()
}

fn outdated<'a>(instances: &'a [Instance], to: &ImageHash) -> Vec<&'a Instance> {
    let is_outdated = |one: &&Instance| {
        matches!((one.state, one.want), (State::Running | State::Warm, Want::Running | Want::Warm))
            && one.image.as_ref() != Some(to)
    };
    let mut old: Vec<&Instance> = instances.iter().filter(is_outdated).collect();
    old.sort_by(|a, b| (a.created_at, &a.instance).cmp(&(b.created_at, &b.instance)));
    old
}
