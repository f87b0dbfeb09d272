# What builders leave, for scripts that have some. Sourced after the prelude.

# What a builder could leave: it is the second of its network.
of_builders() {
    ip -o link | grep -oE 'tn[0-9]+i2:' || true
    find /var/lib/mvm/tenants -path '*mvm-builder*' | head -3
    find /sys/fs/cgroup/mvm /var/lib/mvm/jails/firecracker -mindepth 1 -maxdepth 1 2>/dev/null || true
    find /dev/mapper -name 'mvm-*'
    ps -eo pid=,comm= | grep -E 'firecracker|jailer|mvm-shim|mvm-pager' || true
}
none_left() { local left; left=$(of_builders); [ -z "$left" ] || fail "a builder left: $left"; echo "ok: $1"; }
