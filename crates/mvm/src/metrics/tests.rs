#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use std::{collections::BTreeSet, fs, path::Path};

use mvm_core::{
    api::Role, disk::Room, id::PoolRef, meter::Pressure, plan::policy::PressureLimits, state::State,
};
use mvm_engine::metrics::Counted;
use serde_json::Value;

use super::{table::ALL, *};

fn page() -> String {
    let pool: PoolRef = "acme/web".parse().unwrap();
    let place = (pool.tenant.clone(), Some(pool.pool.clone()));
    let mut counted = Counted::default();
    counted.events.insert((EventKind::InstanceWoken, place.clone()), 2);
    counted.events.insert((EventKind::QuotaExceeded, place.clone()), 4);
    let durations = counted.durations.entry((EventKind::InstanceWoken, place));
    let durations = durations.or_default();
    durations.add(40);
    durations.add(700);
    let figures = PoolFigures {
        states: [(State::Running, 3), (State::Warm, 0)].into(),
        desired: Counts { running: 3, warm: 1, sleeping: 0 },
        counted: Counts { running: 3, warm: 0, sleeping: 0 },
        held_back: 1,
        memory: Mib(384),
        disk: Mib(64),
    };
    let present = Present {
        pools: [(pool, figures)].into(),
        pressure: Pressure { total_mib: 1024, available_mib: 512, stalled_percent: Some(25) },
        limits: PressureLimits { available_percent: 25, stalled_percent: 20 },
        room: Room { total_mib: 1000, free_mib: 400, reserve_mib: 100 },
    };
    let passes = Passes { converged_at: Some(Timestamp(1500)), deferred: 2, ..Passes::default() };
    let certificates = [(Role::Node, Timestamp(2000))].into();
    render(&Reading { counted: &counted, present: &present, passes, certificates })
}

#[test]
fn a_page_has_each_figure_with_its_labels() {
    let page = page();
    for line in [
        "mvm_events_total{tenant=\"acme\",pool=\"web\",event=\"InstanceWoken\"} 2",
        "mvm_events_total{tenant=\"acme\",pool=\"web\",event=\"InstanceFailed\"} 0",
        "mvm_deferrals_total{tenant=\"acme\",pool=\"web\"} 0",
        "mvm_rejects_total{tenant=\"acme\",pool=\"web\",reason=\"quota\"} 4",
        "mvm_rejects_total{tenant=\"node\",reason=\"desired_state\"} 0",
        "mvm_operation_duration_seconds_bucket{tenant=\"acme\",pool=\"web\",operation=\"wake\",le=\"0.05\"} 1",
        "mvm_operation_duration_seconds_bucket{tenant=\"acme\",pool=\"web\",operation=\"wake\",le=\"1\"} 2",
        "mvm_operation_duration_seconds_bucket{tenant=\"acme\",pool=\"web\",operation=\"wake\",le=\"+Inf\"} 2",
        "mvm_operation_duration_seconds_sum{tenant=\"acme\",pool=\"web\",operation=\"wake\"} 0.74",
        "mvm_operation_duration_seconds_count{tenant=\"acme\",pool=\"web\",operation=\"sleep\"} 0",
        "mvm_reconcile_deferred 2",
        "mvm_reconcile_last_success_timestamp_seconds 1.5",
        "mvm_instances{tenant=\"acme\",pool=\"web\",state=\"Running\"} 3",
        "mvm_instances{tenant=\"acme\",pool=\"web\",state=\"Warm\"} 0",
        "mvm_pool_desired_instances{tenant=\"acme\",pool=\"web\",count=\"warm\"} 1",
        "mvm_pool_counted_instances{tenant=\"acme\",pool=\"web\",count=\"running\"} 3",
        "mvm_pool_held_back_instances{tenant=\"acme\",pool=\"web\"} 1",
        "mvm_instances_memory_bytes{tenant=\"acme\",pool=\"web\"} 402653184",
        "mvm_instances_disk_bytes{tenant=\"acme\",pool=\"web\"} 67108864",
        "mvm_host_memory_floor_bytes 268435456",
        "mvm_host_memory_stalled_ratio 0.25",
        "mvm_host_memory_stalled_limit_ratio 0.2",
        "mvm_host_disk_available_bytes 419430400",
        "mvm_host_disk_reserve_bytes 104857600",
        "mvm_certificate_expiry_timestamp_seconds{role=\"node\"} 2",
    ] {
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
}

#[test]
fn a_page_shows_exactly_the_figures_of_the_table_with_their_labels_and_nothing_twice() {
    let page = page();
    let types: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let table: Vec<String> =
        ALL.iter().map(|one| format!("{} {}", one.name, one.kind.name())).collect();
    assert_eq!(types, table);
    let mut seen = BTreeSet::new();
    let mut family = None;
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            family = ALL.iter().find(|one| head.starts_with(&format!("{} ", one.name)));
            continue;
        }
        let Some(key) =
            line.rsplit_once(' ').map(|(key, _)| key).filter(|_| !line.starts_with('#'))
        else {
            continue;
        };
        assert!(seen.insert(key), "{key} is there twice");
        let family = family.unwrap();
        assert!(key.starts_with(family.name), "{key} stands below {}", family.name);
        let labels = key.split_once('{').map_or("", |(_, labels)| labels).trim_end_matches('}');
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let name = label.split_once('=').unwrap().0;
            assert!(name == "le" || family.labels.contains(&name), "{key} has {name}");
        }
    }
}

/// The names of ours in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |one: char| one.is_ascii_alphanumeric() || one == '_';
    let words = text.split(|one: char| !is_part(one));
    words.filter(|word| word.starts_with("mvm_")).map(ToOwned::to_owned).collect()
}

fn is_shown(name: &str) -> bool {
    ALL.iter().any(|one| match one.kind {
        table::Kind::Counter | table::Kind::Gauge => one.name == name,
        table::Kind::Histogram => ["_bucket", "_sum", "_count"]
            .into_iter()
            .any(|part| name.strip_suffix(part) == Some(one.name)),
    })
}

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring").join(file);
    fs::read_to_string(path).unwrap()
}

#[test]
fn alerts_and_dashboard_ask_for_figures_that_are_there() {
    for file in ["alerts.yml", "alerts-test.yml", "dashboard.json"] {
        let names = names(&shipped(file));
        assert!(!names.is_empty(), "{file}");
        let unknown: Vec<_> = names.iter().filter(|name| !is_shown(name)).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
    assert!(!is_shown("mvm_operation_duration_seconds") && !is_shown("mvm_instances_total"));
}

#[test]
fn every_panel_of_the_dashboard_asks_for_something_in_its_own_place() {
    let dashboard: Value = serde_json::from_str(&shipped("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|one| one["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(places.insert(panel["gridPos"].to_string()), "{} lies on another", panel["title"]);
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        assert!(targets.iter().all(|one| !names(one["expr"].as_str().unwrap()).is_empty()));
    }
}
