//! The tables as a whole: what they survive, what they notice, and what `verify` says.

use std::process::Command;

use mvm_core::{ErrorKind, units::Generation};
use mvm_host::net::{self, Mtu};

use crate::world::{World, in_namespace, line, run};

fn in_force(world: &World) -> Option<Generation> {
    net::firewall(&world.roots).unwrap().generation
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_strangers_change_leaves_our_generation_in_force_and_a_change_of_ours_does_not() {
    in_namespace(|| {
        let world = World::up();
        assert_eq!(in_force(&world), Some(Generation(7)));
        run(["nft", "add", "table", "ip", "theirs"]);
        run([
            "nft",
            "add",
            "chain",
            "ip",
            "theirs",
            "c",
            "{ type filter hook forward priority 0; }",
        ]);
        assert_eq!(in_force(&world), Some(Generation(7)));
        for change in [
            "add rule inet mvm forward accept",
            "insert rule bridge mvm guest accept",
            "flush chain inet mvm from_guest",
            "add element bridge mvm taps { \"tn3i77\" }",
            "delete element bridge mvm taps { \"tn3i3\" }; \
             add element bridge mvm taps { \"tn3i7\" }",
            "add chain inet mvm another",
            "delete table bridge mvm",
            "flush ruleset",
        ] {
            run(["nft", change]);
            assert_eq!(in_force(&world), None, "after {change}");
            net::replace_firewall(&world.roots, &world.intent).unwrap();
            assert_eq!(in_force(&world), Some(Generation(7)), "repaired after {change}");
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn an_older_generation_is_refused_and_an_empty_intent_removes_everything() {
    in_namespace(|| {
        let world = World::up();
        let mut intent = world.intent.clone();
        intent.generation = Generation(6);
        let refused = net::replace_firewall(&world.roots, &intent).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert_eq!(in_force(&world), Some(Generation(7)));
        intent.generation = Generation(8);
        intent.networks.clear();
        intent.ports.clear();
        net::replace_firewall(&world.roots, &intent).unwrap();
        net::replace_firewall(&world.roots, &intent).unwrap();
        assert_eq!((in_force(&world), world.has_tables()), (None, false));
        assert_eq!(std::fs::read_dir(&world.roots.run).unwrap().count(), 0);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn tables_that_were_never_stamped_do_not_count_as_in_force() {
    in_namespace(|| {
        let world = World::up();
        std::fs::remove_file(world.roots.run.join("firewall.json")).unwrap();
        assert_eq!(in_force(&world), None);
        assert!(world.has_tables());
        net::replace_firewall(&world.roots, &world.intent).unwrap();
        assert_eq!(in_force(&world), Some(Generation(7)));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn a_change_in_the_midst_of_a_replacement_is_never_stamped_as_ours() {
    in_namespace(|| {
        let world = World::up();
        for round in 0..24 {
            let mut intent = world.intent.clone();
            intent.generation = Generation(8 + round);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..round % 6 {
                        world.tables();
                    }
                    let _ = Command::new("nft").arg("add rule inet mvm forward accept").output();
                });
                net::replace_firewall(&world.roots, &intent).unwrap();
            });
            let altered = run(["nft", "list", "chain", "inet", "mvm", "forward"])
                .lines()
                .any(|line| line.trim() == "accept");
            assert_eq!(in_force(&world).is_none(), altered, "round {round}");
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask ci"]
fn verify_names_what_is_wrong_and_nothing_else() {
    in_namespace(|| {
        let world = World::up();
        let problems = || {
            let found = net::verify(&world.roots, Mtu::OfUplinks, &world.intent).unwrap();
            let problems =
                found.into_iter().map(|finding| format!("{}: {}", finding.check, finding.problem));
            problems.collect::<Vec<_>>()
        };
        assert_eq!(problems(), Vec::<String>::new());
        let expect = |words: &str, repair: &dyn Fn()| {
            let found = problems();
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
            repair();
            assert_eq!(problems(), Vec::<String>::new(), "after the repair of: {words}");
        };
        let ensure = || world.ensure();
        line("ip link set tn3i3 master br-tenant-4");
        expect("tap: tap tn3i3 is on br-tenant-4", &ensure);
        net::remove_routes(world.beta.net).unwrap();
        expect("routes: 6 of the 6 policy routes are missing", &ensure);
        line("ip rule add pref 240 iif br-tenant-3 to 10.240.0.0/12 lookup main");
        line("ip route add 10.240.0.0/12 dev lo");
        assert!(net::routes_are_there(&world.acme).unwrap());
        expect("stands before the policy routes", &|| {
            line("ip rule del pref 240 iif br-tenant-3 to 10.240.0.0/12");
            line("ip route del 10.240.0.0/12");
        });
        run(["nft", "add rule inet mvm forward accept"]);
        expect("table: the tables were altered", &ensure);
        line("ip link set br-tenant-4 down");
        expect("bridge: bridge br-tenant-4 is down", &ensure);
        std::fs::write("/proc/sys/net/ipv4/conf/br-tenant-3/arp_ignore", "0").unwrap();
        expect("bridge: net.ipv4.conf.br-tenant-3.arp_ignore is not 1", &ensure);
        line("ip tuntap add tn3i99 mode tap user 1234 group 1234");
        assert_eq!(problems().len(), 3, "it has no instance, no bridge, and IPv6");
        line("ip link del tn3i99");
        line("ip link add stranger type veth peer name veth0");
        line("ip link set stranger master br-tenant-3");
        expect("tap: stranger is a port of br-tenant-3", &|| drop(line("ip link del stranger")));
        let theirs = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
        run(["nft", theirs]);
        let lines = problems();
        assert!(lines.len() == 1 && lines[0].contains("table ip filter drops"), "{lines:?}");
        for line in lines[0].split('`').filter(|part| part.starts_with("nft ")) {
            run(["nft", line.trim_start_matches("nft ")]);
        }
        assert_eq!(problems(), Vec::<String>::new(), "the lines that were given help");
    });
}
