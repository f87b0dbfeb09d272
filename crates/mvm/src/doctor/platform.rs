//! What microVMs need of kernel and machine.

use mvm_host::{
    kvm::{self, Kvm},
    net, tool,
    vmm::cgroup,
};

use super::{Check, Sight};
use crate::wiring;

/// The oldest kernel that Firecracker supports.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

pub(super) fn checks(sight: &Sight<'_>) -> Vec<Check> {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let mut checks = vec![
        system(&text(name.sysname()), &text(name.machine())),
        kernel(&text(name.release())),
        kvm(sight),
        cgroups(sight),
        nftables(),
        tun(sight),
        bridge(sight, &text(name.release())),
        encryption(sight, &text(name.release())),
        clock(),
        resolvers(sight),
    ];
    checks.extend(firewall());
    checks
}

pub(super) fn system(system: &str, arch: &str) -> Check {
    let found = format!("{system} on {arch}");
    match (system, arch) {
        ("Linux", "x86_64") => Check::ok("system", found),
        ("Linux", "aarch64") => Check::warning(
            "system",
            found,
            "microVMs on aarch64 were not proven yet: report what you see",
        ),
        (_, _) => Check::failed("system", found, "use Linux on x86_64 or aarch64"),
    }
}

pub(super) fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_KERNEL => {
            Check::ok("kernel", release)
        }
        (_, _) => Check::failed("kernel", release, "use Linux 5.10 or newer"),
    }
}

fn kvm(sight: &Sight<'_>) -> Check {
    let verdict = kvm::probe(&wiring::roots(sight.config));
    match verdict.kvm {
        Kvm::Usable => Check::ok("kvm", format!("usable: {}", verdict.detail)),
        Kvm::Unusable => Check::failed(
            "kvm",
            format!("unusable: {}", verdict.detail),
            "switch on virtualisation (VT-x or AMD-V) in the firmware, or nested virtualisation \
             where this is a virtual machine; or run `mvm bootstrap`: it makes a machine with a \
             software processor",
        ),
        Kvm::Unknown => Check::failed(
            "kvm",
            format!("not known: {}", verdict.detail),
            "run `mvm bootstrap`, which installs Firecracker, and try again",
        ),
    }
}

fn cgroups(sight: &Sight<'_>) -> Check {
    let advice = "boot with systemd.unified_cgroup_hierarchy=1 (and without cgroup_no_v1=)";
    let Some(present) = sight.text("/sys/fs/cgroup/cgroup.controllers") else {
        return Check::failed("cgroups", "no cgroup v2 at /sys/fs/cgroup", advice);
    };
    let lacks = |wanted: &&&str| !present.split_ascii_whitespace().any(|name| name == **wanted);
    let missing: Vec<&str> = cgroup::NEEDED.iter().filter(lacks).copied().collect();
    if !missing.is_empty() {
        let found = format!("cgroup v2 lacks {}", missing.join(", "));
        return Check::failed("cgroups", found, advice);
    }
    if lacks(&&"io") {
        return Check::warning(
            "cgroups",
            format!("cgroup v2 with {present}"),
            "without the controller io, disk limits are Firecracker's alone",
        );
    }
    Check::ok("cgroups", format!("cgroup v2 with {present}"))
}

fn nftables() -> Check {
    let advice = "install the package nftables, on a kernel with nf_tables";
    let listed = tool::find("nft").and_then(|nft| {
        let words = ["list".as_ref(), "tables".as_ref()];
        tool::run(&nft, &words, b"", std::time::Duration::from_secs(10))
    });
    match listed {
        Ok(_) => Check::ok("nftables", "nft lists the kernel's tables"),
        Err(error) => Check::failed("nftables", error.to_string(), advice),
    }
}

fn tun(sight: &Sight<'_>) -> Check {
    if sight.has("/dev/net/tun") {
        return Check::ok("tun", "/dev/net/tun");
    }
    Check::failed("tun", "no /dev/net/tun", "load the module: modprobe tun")
}

/// Whether the kernel has a module, loaded, built in or to be loaded.
fn has_module(sight: &Sight<'_>, release: &str, name: &str) -> bool {
    let listed = |list: &str| {
        let text = sight.text(&format!("/lib/modules/{release}/{list}")).unwrap_or_default();
        text.lines().any(|line| {
            let path = line.split(':').next().unwrap_or_default();
            path.rsplit('/').next().is_some_and(|file| {
                file.split('.').next().is_some_and(|module| module.replace('-', "_") == name)
            })
        })
    };
    sight.has(&format!("/sys/module/{name}")) || listed("modules.builtin") || listed("modules.dep")
}

pub(super) fn bridge(sight: &Sight<'_>, release: &str) -> Check {
    if has_module(sight, release, "bridge") {
        return Check::ok("bridge", "the kernel has bridges");
    }
    Check::failed("bridge", "the kernel has no bridges", "use a kernel with CONFIG_BRIDGE")
}

pub(super) fn encryption(sight: &Sight<'_>, release: &str) -> Check {
    let advice = "data disks of tenants with a key need it: install cryptsetup, on a kernel with \
                  dm_crypt";
    match (has_module(sight, release, "dm_crypt"), tool::find("cryptsetup")) {
        (true, Ok(_)) => Check::ok("encryption", "dm_crypt and cryptsetup"),
        (false, _) => Check::warning("encryption", "the kernel has no dm_crypt", advice),
        (true, Err(error)) => Check::warning("encryption", error.to_string(), advice),
    }
}

/// 2026-01-01, before which no build of this program was made.
const EPOCH: u64 = 1_767_225_600;

fn clock() -> Check {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let name = "clock";
    if now < EPOCH {
        return Check::failed(name, format!("{now} s since 1970 is in the past"), "set the clock");
    }
    let daemons = ["/run/systemd/timesync/synchronized", "/run/chrony", "/run/ntpd.pid"];
    if daemons.iter().any(|path| std::path::Path::new(path).exists()) {
        return Check::ok(name, "kept right by a daemon");
    }
    Check::warning(
        name,
        "nothing is seen that keeps it right",
        "run systemd-timesyncd or chrony: certificates and signed states depend on the time",
    )
}

pub(super) fn resolvers(sight: &Sight<'_>) -> Check {
    let servers = |path: &str| -> Vec<String> {
        let text = sight.text(path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        lines.map(|rest| rest.trim().to_owned()).collect()
    };
    let is_local = |server: &String| server.starts_with("127.") || server == "::1";
    let mut found = servers("/etc/resolv.conf");
    if found.iter().all(is_local) {
        found.extend(servers("/run/systemd/resolve/resolv.conf"));
    }
    if found.is_empty() {
        let advice = "write a nameserver into /etc/resolv.conf: guests resolve through the host";
        return Check::failed("resolvers", "there is none", advice);
    }
    Check::ok("resolvers", found.join(", "))
}

/// One check for each chain of somebody else's that drops our traffic.
fn firewall() -> Vec<Check> {
    match net::foreign_rules() {
        Ok(findings) if findings.is_empty() => {
            vec![Check::ok("firewall", "nobody's rules drop guests' traffic")]
        }
        Ok(findings) => findings
            .into_iter()
            .map(|finding| {
                Check::warning("firewall", finding.problem, "add the line that it names")
            })
            .collect(),
        Err(error) => vec![Check::warning(
            "firewall",
            format!("other people's rules cannot be read: {error}"),
            "run it as root, with nftables installed",
        )],
    }
}
