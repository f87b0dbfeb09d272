//! Each verdict on a made-up machine.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use super::*;
use crate::config::Overrides;

/// A machine with these files.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let overrides = Overrides { data_dir: Some(root.path().join("data")), ..Default::default() };
    (root, Config::read(&overrides).unwrap())
}

fn health(files: &[(&str, &str)], check: impl Fn(&Sight<'_>) -> Check) -> (Health, String) {
    let (root, config) = machine(files);
    let sight = Sight { config: &config, root: root.path().to_owned() };
    let check = check(&sight);
    assert_eq!(check.advice.is_none(), check.health == Health::Ok, "{check:?}");
    (check.health, check.found)
}

#[test]
fn old_kernels_and_other_systems_fail() {
    let of = |release: &str| platform::kernel(release).health;
    assert_eq!(["6.1.0-56-cloud-amd64", "5.10.1", "10.0"].map(of), [Health::Ok; 3]);
    assert_eq!(["5.4.0", "4.19.200", "odd"].map(of), [Health::Failed; 3]);
    assert_eq!(platform::system("Darwin", "arm64").health, Health::Failed);
}

#[test]
fn a_module_counts_when_it_is_loaded_built_in_or_there_to_be_loaded() {
    let bridge = |files: &[(&str, &str)]| health(files, |s| platform::bridge(s, "6.1")).0;
    assert_eq!(bridge(&[]), Health::Failed);
    for file in [
        ("sys/module/bridge/x", ""),
        ("lib/modules/6.1/modules.builtin", "kernel/net/bridge/bridge.ko\n"),
        ("lib/modules/6.1/modules.dep", "kernel/net/bridge/bridge.ko.xz: kernel/llc.ko.xz\n"),
    ] {
        assert_eq!(bridge(&[file]), Health::Ok, "{file:?}");
    }
    let other = ("lib/modules/6.1/modules.dep", "kernel/net/br_netfilter.ko: net/bridge.ko\n");
    assert_eq!(bridge(&[other]), Health::Failed);
}

#[test]
fn a_resolver_behind_the_loopback_is_looked_up() {
    let stub = ("etc/resolv.conf", "nameserver 127.0.0.53\n");
    let real = ("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\n");
    let (verdict, found) = health(&[stub, real], platform::resolvers);
    assert!(verdict == Health::Ok && found.contains("192.0.2.1"), "{found}");
    assert_eq!(health(&[], platform::resolvers).0, Health::Failed);
}

#[test]
fn threads_merging_and_swap_are_judged() {
    let smt = "sys/devices/system/cpu/smt/control";
    assert_eq!(health(&[(smt, "on")], production::threads).0, Health::Warning);
    assert_eq!(health(&[(smt, "forceoff")], production::threads).0, Health::Ok);
    let ksm = "sys/kernel/mm/ksm/run";
    assert_eq!(health(&[(ksm, "1")], production::merging).0, Health::Failed);
    assert_eq!(health(&[(ksm, "0")], production::merging).0, Health::Ok);
    let swaps = ("proc/swaps", "Filename Type\n/dev/dm-0 partition 1 0 -2\n");
    assert_eq!(health(&[swaps], production::swap).0, Health::Failed);
    let crypt = ("sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-x");
    assert_eq!(health(&[swaps, crypt], production::swap).0, Health::Ok);
    assert_eq!(health(&[], production::swap).0, Health::Ok);
}

#[test]
fn an_open_vulnerability_fails_and_half_a_mitigation_warns() {
    let place = |name: &str| format!("sys/devices/system/cpu/vulnerabilities/{name}");
    let judge = |name: &str, text: &str| {
        health(&[(place(name).as_str(), text)], production::vulnerabilities)
    };
    let (verdict, found) = judge("mds", "Vulnerable: Clear CPU buffers attempted\n");
    assert!(verdict == Health::Failed && found.contains("mds"), "{found}");
    let half = "Mitigation: Clear CPU buffers; SMT vulnerable\n";
    assert_eq!(judge("mds", half).0, Health::Warning);
    assert_eq!(judge("l1tf", "Not affected\n").0, Health::Ok);
}

#[test]
fn kvm_parameters_are_judged() {
    let timer = "sys/module/kvm/parameters/min_timer_period_us";
    assert_eq!(health(&[(timer, "20")], production::timer).0, Health::Warning);
    assert_eq!(health(&[(timer, "200")], production::timer).0, Health::Ok);
    let nested = "sys/module/kvm_amd/parameters/nested";
    assert_eq!(health(&[(nested, "1")], production::nesting).0, Health::Warning);
    assert_eq!(health(&[(nested, "0")], production::nesting).0, Health::Ok);
}

#[test]
fn a_vmm_outside_of_a_jail_fails() {
    let vmm = |uid: u32, seccomp: u32| {
        format!(
            "Name:\tfirecracker\nUid:\t{uid}\t{uid}\nCapEff:\t0000000000000000\nSeccomp:\t{seccomp}\n"
        )
    };
    let judge = |text: String| health(&[("proc/7/status", &text)], production::jails);
    assert_eq!(judge(vmm(500, 2)).0, Health::Ok);
    assert_eq!(judge(vmm(0, 2)).0, Health::Failed);
    assert_eq!(judge(vmm(500, 0)).0, Health::Failed);
}

#[test]
fn a_tenant_without_a_key_fails() {
    let tenant = ("data/tenants/acme/tenant.json", "{}");
    let (verdict, found) = health(&[tenant], production::keyless);
    assert!(verdict == Health::Failed && found.contains("acme"), "{found}");
    let key = ("data/keys/acme.key", "");
    assert_eq!(health(&[tenant, key], production::keyless).0, Health::Ok);
}

#[test]
fn space_and_file_systems_are_judged() {
    let of = |(free, total)| files::free(free, total).health;
    assert_eq!(
        [(500, 100_000), (5000, 20_000), (20_000, 1_000_000), (50_000, 100_000)].map(of),
        [Health::Failed, Health::Warning, Health::Warning, Health::Ok]
    );
    assert_eq!(files::kind(0xef53).health, Health::Ok);
    assert_eq!(files::kind(0x0102_1994).health, Health::Failed);
}
