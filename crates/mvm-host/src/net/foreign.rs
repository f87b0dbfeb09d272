//! Which of other people's nftables rules drop our traffic. Pure: JSON of `nft` in, findings out.
//!
//! An `accept` in our tables ends only the walk through *our* chain; every other chain at the same
//! hook is asked too, and one `drop` there is final. Found are base chains at the forward and
//! input hooks (families ip and inet) whose policy is `drop`, or that hold an unconditional `drop`
//! or `reject`, without a rule that accepts our bridges before it. Rules with conditions of their
//! own are taken to mean somebody else's traffic; jumps are not followed.

use mvm_core::port::Finding;
use serde_json::Value;

use super::ruleset::TABLE;

const HOOKS: [&str; 2] = ["forward", "input"];

/// What drops our traffic in the listing of the whole ruleset, with the lines that let it pass.
pub(super) fn findings(ruleset: &Value) -> Vec<Finding> {
    let objects = ruleset.get("nftables").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    objects
        .iter()
        .filter_map(|object| Chain::of(object.get("chain")?))
        .filter_map(|chain| chain.finding(objects))
        .collect()
}

struct Chain<'a> {
    family: &'a str,
    table: &'a str,
    name: &'a str,
    hook: &'a str,
    drops_by_policy: bool,
}

/// What a rule does to a packet of ours that comes to it.
enum Effect {
    Passes,
    Drops,
    Nothing,
}

impl<'a> Chain<'a> {
    fn of(chain: &'a Value) -> Option<Self> {
        let text = |key| chain.get(key).and_then(Value::as_str);
        let (family, table, name) = (text("family")?, text("table")?, text("name")?);
        let hook = text("hook")?;
        let judges_us = matches!(family, "ip" | "inet")
            && HOOKS.contains(&hook)
            && text("type") == Some("filter")
            && !(family == "inet" && table == TABLE);
        let drops_by_policy = text("policy") == Some("drop");
        judges_us.then_some(Self { family, table, name, hook, drops_by_policy })
    }

    fn finding(&self, objects: &[Value]) -> Option<Finding> {
        let mut reason = self.drops_by_policy.then(|| "its policy is drop".to_owned());
        for expressions in objects.iter().filter_map(|object| self.rule(object)) {
            match effect(expressions) {
                Effect::Passes => return None,
                Effect::Drops => {
                    reason = Some("it ends with an unconditional drop or reject".to_owned());
                    break;
                }
                Effect::Nothing => {}
            }
        }
        reason.map(|reason| Finding {
            tenant: None,
            check: "foreign_rule".to_owned(),
            problem: self.problem(&reason),
        })
    }

    fn rule<'r>(&self, object: &'r Value) -> Option<&'r [Value]> {
        let rule = object.get("rule")?;
        let is = |key, value| rule.get(key).and_then(Value::as_str) == Some(value);
        let ours = is("family", self.family) && is("table", self.table) && is("chain", self.name);
        ours.then(|| rule.get("expr").and_then(Value::as_array).map_or(&[][..], Vec::as_slice))
    }

    fn problem(&self, reason: &str) -> String {
        let Self { family, table, name, hook, .. } = self;
        let insert = format!("nft insert rule {family} {table} {name}");
        let (what, lines) = if *hook == "forward" {
            let out = format!("{insert} iifname \"br-tenant-*\" accept");
            let back =
                format!("{insert} oifname \"br-tenant-*\" ct state established,related accept");
            ("what guests send and get", format!("`{out}` and `{back}`"))
        } else {
            let name_queries = format!(
                "{insert} iifname \"br-tenant-*\" meta l4proto {{ tcp, udp }} th dport 53 accept"
            );
            ("guests' name queries", format!("`{name_queries}`"))
        };
        format!("chain {name} of table {family} {table} drops {what}: {reason}; add {lines}")
    }
}

fn effect(expressions: &[Value]) -> Effect {
    let has = |key: &str| expressions.iter().any(|expression| expression.get(key).is_some());
    let conditional = has("match") || has("xt") || has("vmap") || has("limit");
    if has("accept") && (!conditional || expressions.iter().any(names_our_bridges)) {
        return Effect::Passes;
    }
    if (has("drop") || has("reject")) && !conditional {
        return Effect::Drops;
    }
    Effect::Nothing
}

fn names_our_bridges(expression: &Value) -> bool {
    let right = expression.get("match").and_then(|matched| matched.get("right"));
    right.and_then(Value::as_str).is_some_and(|name| name.starts_with("br-tenant-"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(family: &str, table: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": "FORWARD", "type": "filter",
            "hook": "forward", "prio": 0, "policy": policy}})
    }

    fn rule(expressions: &Value) -> Value {
        json!({"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": expressions}})
    }

    fn found(objects: Vec<Value>) -> Vec<Finding> {
        findings(&json!({ "nftables": Value::Array(objects) }))
    }

    #[test]
    fn a_foreign_policy_of_drop_is_named_with_the_lines_to_add() {
        let all = found(vec![chain("ip", "filter", "drop")]);
        assert_eq!(all.len(), 1);
        let problem = all.first().map(|finding| finding.problem.clone()).unwrap_or_default();
        assert!(problem.starts_with("chain FORWARD of table ip filter drops"), "{problem}");
        assert!(
            problem.contains("nft insert rule ip filter FORWARD iifname \"br-tenant-*\" accept"),
            "{problem}"
        );
    }

    #[test]
    fn our_own_tables_and_chains_that_accept_are_no_findings() {
        assert_eq!(found(vec![chain("inet", "mvm", "drop"), chain("ip", "filter", "accept")]), []);
    }

    #[test]
    fn a_final_reject_is_found_and_a_conditional_one_is_not() {
        let accept = chain("ip", "filter", "accept");
        let condition =
            json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}});
        let unconditional = rule(&json!([{"reject": null}]));
        let conditional = rule(&json!([condition, {"drop": null}]));
        assert_eq!(found(vec![accept.clone(), unconditional]).len(), 1);
        assert_eq!(found(vec![accept, conditional]), []);
    }

    #[test]
    fn the_line_that_was_asked_for_ends_the_finding() {
        let line = json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "br-tenant-*"}});
        let accepting = rule(&json!([line, {"accept": null}]));
        assert_eq!(found(vec![chain("ip", "filter", "drop"), accepting]), []);
    }
}
