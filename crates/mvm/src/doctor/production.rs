//! What a host needs before other people's microVMs run on it: Firecracker's guide for production
//! hosts (its docs/prod-host-setup.md), and our own rules.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use mvm_core::layout::data;

use super::{Check, Sight};

/// A guest's timer may not fire more often than this, in µs.
const TIMER_PERIOD: u64 = 100;
/// A node opens some files for each microVM.
const OPEN_FILES: u64 = 4096;

pub(super) fn checks(sight: &Sight<'_>) -> Vec<Check> {
    vec![
        flag(sight),
        threads(sight),
        merging(sight),
        swap(sight),
        vulnerabilities(sight),
        microcode(sight),
        timer(sight),
        nesting(sight),
        jails(sight),
        limits(),
        consoles(),
        config(sight),
        keys(sight),
        keyless(sight),
        logs(sight),
    ]
}

fn flag(sight: &Sight<'_>) -> Check {
    if sight.config.production {
        return Check::ok("production", "the flag is set");
    }
    let advice = "set production = true in config.toml (`mvm bootstrap --production` does)";
    Check::failed("production", "the flag is not set", advice)
}

pub(super) fn threads(sight: &Sight<'_>) -> Check {
    let control = sight.text("/sys/devices/system/cpu/smt/control");
    match control.as_deref() {
        None | Some("off" | "forceoff" | "notsupported" | "notimplemented") => {
            Check::ok("smt", "hardware threads are off or not there")
        }
        Some(other) => Check::warning(
            "smt",
            format!("hardware threads share cores (control is {other})"),
            "boot with nosmt=force, or give each tenant whole cores by core scheduling",
        ),
    }
}

pub(super) fn merging(sight: &Sight<'_>) -> Check {
    match sight.text("/sys/kernel/mm/ksm/run").as_deref() {
        None | Some("0") => Check::ok("ksm", "equal pages are not merged"),
        Some(_) => Check::failed(
            "ksm",
            "equal pages of different guests are merged, which can be felt",
            "echo 0 >/sys/kernel/mm/ksm/run",
        ),
    }
}

pub(super) fn swap(sight: &Sight<'_>) -> Check {
    let text = sight.text("/proc/swaps").unwrap_or_default();
    let devices = text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    let is_open = |device: &&str| {
        let name = device.trim_start_matches("/dev/");
        let uuid = sight.text(&format!("/sys/block/{name}/dm/uuid")).unwrap_or_default();
        !uuid.starts_with("CRYPT-") && !name.starts_with("zram")
    };
    let open: Vec<&str> = devices.filter(is_open).collect();
    if open.is_empty() {
        return Check::ok("swap", "none, or encrypted");
    }
    let found = format!("guests' memory can be written out to {}", open.join(", "));
    Check::failed("swap", found, "swapoff -a, or encrypt it")
}

pub(super) fn vulnerabilities(sight: &Sight<'_>) -> Check {
    let name = "vulnerabilities";
    let place = sight.path("/sys/devices/system/cpu/vulnerabilities");
    let (mut open, mut partly) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let what = entry.file_name().to_string_lossy().into_owned();
        if text.starts_with("Vulnerable") {
            open.push(what);
        } else if text.to_ascii_lowercase().contains("vulnerable") {
            partly.push(what);
        }
    }
    open.sort();
    partly.sort();
    let advice = "update kernel and microcode, and boot without mitigations=off";
    if !open.is_empty() {
        return Check::failed(name, format!("not mitigated: {}", open.join(", ")), advice);
    }
    if !partly.is_empty() {
        return Check::warning(name, format!("partly mitigated: {}", partly.join(", ")), advice);
    }
    Check::ok(name, "mitigated, or not there")
}

fn microcode(sight: &Sight<'_>) -> Check {
    let info = sight.text("/proc/cpuinfo").unwrap_or_default();
    let version = info.lines().find_map(|line| line.strip_prefix("microcode"));
    match version.map(|rest| rest.trim_start_matches([' ', '\t', ':'])) {
        Some(version) => Check::ok("microcode", version),
        None => Check::warning(
            "microcode",
            "its version is not told",
            "install the microcode package of your processor's maker",
        ),
    }
}

pub(super) fn timer(sight: &Sight<'_>) -> Check {
    let value = sight.text("/sys/module/kvm/parameters/min_timer_period_us");
    match value.as_deref().and_then(|value| value.parse::<u64>().ok()) {
        Some(period) if period < TIMER_PERIOD => Check::warning(
            "kvm-timer",
            format!("a guest's timer may fire every {period} µs"),
            "options kvm min_timer_period_us=100 in /etc/modprobe.d/",
        ),
        Some(period) => Check::ok("kvm-timer", format!("every {period} µs at most")),
        None => Check::ok("kvm-timer", "this kernel has no such parameter"),
    }
}

pub(super) fn nesting(sight: &Sight<'_>) -> Check {
    let on = ["kvm_intel", "kvm_amd"].into_iter().find(|module| {
        let value = sight.text(&format!("/sys/module/{module}/parameters/nested"));
        matches!(value.as_deref(), Some("1" | "Y" | "y"))
    });
    match on {
        Some(module) => Check::warning(
            "kvm-nested",
            format!("{module} offers virtualisation to guests"),
            &format!("options {module} nested=0 in /etc/modprobe.d/: guests do not need it"),
        ),
        None => Check::ok("kvm-nested", "guests get no virtualisation"),
    }
}

/// Looks at every VMM that runs: its user, its capabilities, its filter.
pub(super) fn jails(sight: &Sight<'_>) -> Check {
    let (mut count, mut loose) = (0, Vec::new());
    for entry in fs::read_dir(sight.path("/proc")).into_iter().flatten().flatten() {
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_ascii_whitespace().next()).unwrap_or_default()
        };
        if field("Name:") != "firecracker" {
            continue;
        }
        count += 1;
        let has_none = field("CapEff:").bytes().all(|digit| digit == b'0');
        if field("Uid:") == "0" || !has_none || field("Seccomp:") != "2" {
            loose.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    if loose.is_empty() {
        return Check::ok("jails", format!("{count} VMMs, all without rights and behind a filter"));
    }
    let found = format!("not jailed: pid {}", loose.join(", "));
    Check::failed("jails", found, "stop these VMMs, and start them through mvm")
}

fn limits() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(files) if files < OPEN_FILES => Check::warning(
            "limits",
            format!("{files} open files at most"),
            "raise the limit (LimitNOFILE= of the unit, or ulimit -n)",
        ),
        Some(files) => Check::ok("limits", format!("{files} open files at most")),
        None => Check::ok("limits", "as many open files as memory allows"),
    }
}

fn consoles() -> Check {
    Check::ok("consoles", "a guest's console goes to a ring of fixed size, and to no terminal")
}

fn config(sight: &Sight<'_>) -> Check {
    let path = sight.config.config_dir.join("config.toml");
    match fs::metadata(&path) {
        Err(_) => Check::ok("config", "there is no config.toml"),
        Ok(metadata) if metadata.permissions().mode() & 0o007 != 0 => Check::failed(
            "config",
            format!("everybody may read {}", path.display()),
            &format!("chmod 640 {}", path.display()),
        ),
        Ok(_) => Check::ok("config", format!("{} is nobody else's", path.display())),
    }
}

fn keys(sight: &Sight<'_>) -> Check {
    let place = sight.data().join(data::KEYS);
    let open: Vec<String> = fs::read_dir(&place)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|data| data.mode() & 0o177 != 0))
        .map(|entry| entry.path().display().to_string())
        .collect();
    if open.is_empty() {
        return Check::ok("keys", "tenants' keys have mode 0600");
    }
    let found = format!("too open: {}", open.join(", "));
    Check::failed("keys", found, &format!("chmod 600 {}/*", place.display()))
}

pub(super) fn keyless(sight: &Sight<'_>) -> Check {
    let names = |place: &Path| -> Vec<String> {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let keys = names(&sight.data().join(data::KEYS));
    let mut without: Vec<String> = names(&sight.data().join(data::TENANTS))
        .into_iter()
        .filter(|tenant| !keys.contains(&format!("{tenant}.key")))
        .collect();
    without.sort();
    if without.is_empty() {
        return Check::ok("tenant-keys", "every tenant has one");
    }
    let found = format!("without a key: {}", without.join(", "));
    let advice = "their guests sleep in plain text: place keys/<tenant>.key, or destroy them";
    Check::failed("tenant-keys", found, advice)
}

fn logs(sight: &Sight<'_>) -> Check {
    let place = sight.data().join(data::TENANTS);
    match fs::metadata(&place) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Check::failed(
            "logs",
            format!("others may look into {}", place.display()),
            &format!("chmod 700 {}", place.display()),
        ),
        Ok(_) | Err(_) => Check::ok("logs", "consoles and logs are nobody else's"),
    }
}
