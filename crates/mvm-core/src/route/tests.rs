#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn around() -> Surroundings {
    Surroundings {
        own: "gateways".parse().unwrap(),
        pools: ["workers", "web"].into_iter().map(|id| id.parse().unwrap()).collect(),
        subnet: "10.240.3.0/24".parse().unwrap(),
    }
}

fn wrongs(document: &serde_json::Value) -> Vec<String> {
    let mut findings = Findings::new();
    read(document, "", &around(), &mut findings);
    findings.all().iter().map(ToString::to_string).collect()
}

#[test]
fn a_table_with_every_field_reads_back_as_it_was_written() {
    let document = json!({"routes": [
        {"name": "api", "match_rule": {"port": 80, "path_prefix": "/api", "source_cidr": "10.240.3.0/24"},
         "target": {"pool_id": "workers", "instance_selector": "least_connections", "target_port": 8080}},
        {"name": "one", "match_rule": {"port": 81},
         "target": {"pool_id": "web", "instance_selector": {"by_ip": "10.240.3.7"}}},
        {"name": "rest", "match_rule": {"port": 80},
         "target": {"pool_id": "web", "instance_selector": "any"}},
    ]});
    let mut findings = Findings::new();
    let table = read(&document, "", &around(), &mut findings);
    assert_eq!(findings.all(), []);
    assert_eq!(serde_json::to_value(&table).unwrap(), document);
    assert_eq!(serde_json::from_value::<RoutingTable>(document).unwrap(), table);
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let target = json!({"pool_id": "workers"});
    let document = json!({"routes": [
        {"name": "none", "match_rule": {}, "target": target},
        {"name": "a", "match_rule": {"port": 70000, "path_prefx": "/"}, "target": {"pool_id": "absent"}},
        {"name": "B", "match_rule": {"path_prefix": "api"}, "target": {"pool_id": "gateways"}},
        {"name": "c", "match_rule": {"port": 1, "path_prefix": "/a/../b", "source_cidr": "10.1.2.3/8"}},
        {"name": "c", "match_rule": {"port": 1, "path_prefix": "/a//b"},
         "target": {"pool_id": "web", "instance_selector": {"by_ip": "10.240.4.7"}, "target_port": 0}},
        {"name": "d", "match_rule": {"port": 1, "path_prefix": "/a//b"},
         "target": {"pool_id": "nowhere", "instance_selector": {"by_ip": "10.240.4.7"}}},
        {"name": "d", "match_rule": {"port": 2}, "target": {"pool_id": "gateways", "instance_selector": "some"}},
        {"name": "d", "match_rule": {"port": 2}, "target": target},
    ], "more": 1});
    let expected = [
        "more: unknown field",
        "routes[1].match_rule.path_prefx: unknown field, did you mean path_prefix?",
        "routes[1].match_rule.port: must be a whole number from 1 to 65535",
        "routes[2].name: \"B\" is not an id: use 1 to 63 lower-case letters, digits and hyphens, \
         no hyphen at either end",
        "routes[3].match_rule.source_cidr: \"10.1.2.3/8\" has host bits set: the range is 10.0.0.0/8",
        "routes[3].target: is missing",
        "routes[4].target.target_port: must be a whole number from 1 to 65535",
        "routes[6].target.instance_selector: must be \"any\", \"least_connections\" or {\"by_ip\": ADDRESS}",
        "routes[0].match_rule: names no port, path_prefix or source_cidr",
        "routes[5].match_rule.path_prefix: has an empty segment, or one of dots",
        "routes[5].target.pool_id: there is no pool nowhere",
        "routes[5].target.instance_selector.by_ip: 10.240.4.7 is no guest's address in 10.240.3.0/24",
        "routes[7].name: d is there twice",
    ];
    assert_eq!(wrongs(&document), expected);
}

#[test]
fn two_routes_with_equal_right_to_a_request_are_refused() {
    let table = |rules: [serde_json::Value; 2]| {
        let route = |(n, rule)| json!({"name": format!("r{n}"), "match_rule": rule, "target": {"pool_id": "web"}});
        json!({"routes": rules.into_iter().enumerate().map(route).collect::<Vec<_>>()})
    };
    let overlap = |one, other| wrongs(&table([one, other])).len() == 1;
    assert!(overlap(json!({"port": 80}), json!({"port": 80})));
    assert!(overlap(json!({"path_prefix": "/"}), json!({"port": 8080})), "the default port");
    assert!(overlap(json!({"path_prefix": "/a"}), json!({"path_prefix": "/a/"})));
    assert!(overlap(json!({"path_prefix": "/a"}), json!({"source_cidr": "10.0.0.0/8"})));
    assert!(!overlap(json!({"port": 80}), json!({"port": 81})));
    assert!(!overlap(json!({"path_prefix": "/a"}), json!({"path_prefix": "/ab"})));
    assert!(!overlap(json!({"path_prefix": "/a"}), json!({"path_prefix": "/a/b"})));
    assert!(!overlap(json!({"source_cidr": "10.0.0.0/8"}), json!({"source_cidr": "11.0.0.0/8"})));
    assert!(!overlap(
        json!({"path_prefix": "/a", "source_cidr": "10.0.0.0/8"}),
        json!({"source_cidr": "0.0.0.0/0"})
    ));
}

fn rule() -> impl Strategy<Value = MatchRule> {
    let path = prop::option::of(prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/b"]));
    let source = prop::option::of(prop::sample::select(vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.240.0.0/16",
        "10.240.3.7/32",
        "11.0.0.0/8",
    ]));
    (path, source).prop_map(|(path, source)| MatchRule {
        port: None,
        path_prefix: path.map(str::to_owned),
        source_cidr: source.map(|text| text.parse().unwrap()),
    })
}

fn takes(rule: &MatchRule, path: &str, from: Ipv4Addr) -> bool {
    is_below(path, rule.path()) && rule.source_cidr.is_none_or(|range| range.contains(from))
}

proptest! {
    #[test]
    fn of_an_accepted_pair_one_is_narrower_wherever_both_match(one in rule(), other in rule()) {
        let both = ["", "/a", "/a/b/c", "/ab", "/b/a"].into_iter().any(|path| {
            [[10, 240, 3, 7], [10, 240, 3, 8], [10, 1, 1, 1], [11, 0, 0, 1], [8, 8, 8, 8]]
                .into_iter()
                .any(|from| takes(&one, path, from.into()) && takes(&other, path, from.into()))
        });
        prop_assert_eq!(both, one.meets(&other));
        prop_assert!(!one.covers(&other) || one.meets(&other));
    }

    #[test]
    fn any_text_is_a_range_or_an_error_and_a_range_survives_text(text: String, base: u32, bits in 0u8..=32) {
        let _ = text.parse::<Cidr>();
        let masked = if bits == 0 { 0 } else { base & (u32::MAX << (32 - bits)) };
        let range: Cidr = format!("{}/{bits}", Ipv4Addr::from(masked)).parse().unwrap();
        prop_assert_eq!(range.to_string().parse(), Ok(range));
        prop_assert!(range.contains(Ipv4Addr::from(base)));
    }
}
