//! Counters of the guest, from `/proc`.
//!
//! A file that is missing or unreadable counts as zero: metrics never fail. This module refuses
//! to know thresholds.

use std::fs;

use mvm_proto::message::Metrics;

/// Clock ticks a second in `/proc/stat`: `USER_HZ` is 100 on every architecture we run on.
const TICK_MS: u64 = 10;

/// Reads all counters.
pub(crate) fn metrics() -> Metrics {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpu_total_ms, cpu_idle_ms) = cpu(&read("/proc/stat"));
    let memory = read("/proc/meminfo");
    let (net_rx_bytes, net_tx_bytes) = network(&read("/proc/net/dev"));
    let load_milli = load(&read("/proc/loadavg"));
    Metrics {
        cpu_total_ms,
        cpu_idle_ms,
        mem_total_kib: meminfo(&memory, "MemTotal:"),
        mem_available_kib: meminfo(&memory, "MemAvailable:"),
        net_rx_bytes,
        net_tx_bytes,
        load_milli,
        uptime_ms: read("/proc/uptime").split(' ').next().map_or(0, thousandths),
        processes: processes(),
    }
}

/// (all, idle) of all CPUs together; waiting for a disk is idle too.
fn cpu(stat: &str) -> (u64, u64) {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else {
        return (0, 0);
    };
    // user nice system idle iowait irq softirq steal; guest time is part of user already.
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().take(8).map(|word| word.parse().unwrap_or(0)).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (ticks.iter().sum::<u64>() * TICK_MS, idle * TICK_MS)
}

fn meminfo(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

fn network(text: &str) -> (u64, u64) {
    let counters = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let mut words = rest.split_ascii_whitespace().map(str::parse::<u64>);
        let received = words.next()?.ok()?;
        let sent = words.nth(7)?.ok()?;
        (name.trim() != "lo").then_some((received, sent))
    });
    counters.fold((0, 0), |(rx, tx), (received, sent)| (rx + received, tx + sent))
}

fn load(text: &str) -> [u32; 3] {
    let mut averages = [0; 3];
    for (average, word) in averages.iter_mut().zip(text.split(' ')) {
        *average = u32::try_from(thousandths(word)).unwrap_or(u32::MAX);
    }
    averages
}

/// A decimal number like `12.34` in thousandths.
fn thousandths(text: &str) -> u64 {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = whole.parse().unwrap_or(0);
    whole.saturating_mul(1000).saturating_add(fraction.parse().unwrap_or(0))
}

fn processes() -> u32 {
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let count = fs::read_dir("/proc").map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_process)).count()
    });
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_kernels_text() {
        assert_eq!(cpu("cpu  10 1 5 100 20 1 1 2 9 9\ncpu0 1 1\n"), (1400, 1200));
        let dev =
            "Inter-|\n face |bytes\n  lo: 9 0 0 0 0 0 0 0 9 0\neth0:70 1 0 0 0 0 0 0 80 1 0\n";
        assert_eq!(network(dev), (70, 80));
        assert_eq!(meminfo("MemTotal:  2048 kB\nMemAvailable: 7 kB\n", "MemAvailable:"), 7);
        assert_eq!(load("0.05 1.5 12.345 1/99 7"), [50, 1500, 12345]);
        assert_eq!(thousandths("7"), 7000);
        assert_eq!((cpu("what"), network("?"), thousandths("x")), ((0, 0), (0, 0), 0));
    }

    #[test]
    fn a_running_kernel_has_counters_that_are_not_zero() {
        let metrics = metrics();
        assert!(metrics.cpu_total_ms > 0 && metrics.mem_total_kib > 0 && metrics.processes > 0);
    }
}
