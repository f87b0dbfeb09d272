# Sourced by every end-to-end script; `cargo xtask e2e` puts it into the test host.
set -euo pipefail
# What a script left in the background would hold its output open, and the runner would wait. After a
# failure it says what the guests said that died.
at_end() {
    local status=$?
    jobs -p | xargs -r kill 2>/dev/null || true
    [ "$status" = 0 ] || mvm --json instance list 2>/dev/null | jq -r '.[] | select(.last_failure) | .instance' |
        while read -r i; do echo "--- $i ---"; mvm instance logs "$i" 2>&1 | tail -n 40; done || true
}
trap at_end EXIT

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
check() { local what=$1; shift; "$@" || fail "$what"; printf 'ok: %s\n' "$what"; }
equal() { [ "$2" = "$3" ] || fail "$1: expected '$3', got '$2'"; printf 'ok: %s\n' "$1"; }

# Runs a command that must fail with this exit code; its output is in $REFUSAL.
refused() {
    local want=$1 got=0; shift
    REFUSAL=$("$@" 2>&1) || got=$?
    [ "$got" = "$want" ] || fail "'$*' ended with $got instead of $want: $REFUSAL"
    case "$REFUSAL" in *'mvm: error:'*) ;; *) fail "'$*' gave no error message: $REFUSAL" ;; esac
    printf 'ok: refused (%s): %s\n' "$want" "$*"
}

# Waits for a condition, up to SECONDS seconds.
within() {
    local seconds=$1 until; shift
    until=$(($(date +%s) + seconds))
    until "$@"; do [ "$(date +%s)" -lt "$until" ] || return 1; sleep 0.2; done
}

state() { mvm --json instance list "${1%/*}" | jq -r --arg i "$1" '.[] | select(.instance == $i) | .state'; }
states() { mvm --json instance list "$1" | jq -r '[.[].state] | sort | join(" ")'; }
guest() { local i=$1; shift; mvm instance exec "$i" -- "$@"; }

# instance host port: the guest's TCP reaches it. A refusal was reached, too: something answered.
reaches() {
    local said
    said=$(guest "$1" timeout 6 nc -w 2 "$2" "$3" -e true 2>&1) && return 0
    case "$said" in *refused*) return 0 ;; *'timed out'* | *unreachable* | *'No route'* | *ermission*) return 1 ;; esac
    fail "no probe of $2:$3 from $1: $said"
}

# instance host:port…: which of these the guest reaches, all tried at once: the list of those that are open.
# With one that is known to be open among them it shows that the others are not just slow.
opens() {
    local i=$1 to pids=(); shift
    rm -rf /run/opens; mkdir /run/opens
    for to in "$@"; do
        { if reaches "$i" "${to%:*}" "${to##*:}"; then echo "$to"; else echo; fi >"/run/opens/$to"; } & pids+=($!)
    done
    wait "${pids[@]}" || true
    # An empty file is a probe that failed.
    for to in "$@"; do [ -s "/run/opens/$to" ] || echo "no probe of $to"; done
    cat /run/opens/* | xargs
}

# [mtu]: a world outside, in a namespace of its name: 198.51.100.2, and beyond it 203.0.113.1.
world_outside() {
    local mtu=${1:-1500}
    ip netns add world
    ip link add out0 type veth peer name out1 netns world
    ip addr add 198.51.100.1/24 dev out0; ip link set out0 mtu "$mtu" up
    ip -n world addr add 198.51.100.2/24 dev out1; ip -n world link set out1 mtu "$mtu" up; ip -n world link set lo up
    ip -n world addr add 203.0.113.1/32 dev lo; ip route add 203.0.113.0/24 via 198.51.100.2
}

# tenant pool [create flags…]: a tenant, a pool with a build, one instance; its address is printed.
one_instance() {
    local tenant=$1 pool=$2; shift 2
    mvm --quiet tenant list | grep -qw "$tenant" || mvm --quiet tenant create "$tenant" >&2
    mvm --quiet pool create "$tenant/$pool" --image default --cpus 1 --mem 128 "$@" >&2
    mvm --quiet pool build "$tenant/$pool" >&2
    mvm --json instance create "$tenant/$pool" | jq -r .instance
}

# tenant/pool: the bases of its builds, and what is on its way to be one.
bases() { find "/var/lib/mvm/tenants/${1%/*}/pools/${1#*/}/artifacts" -type d -name 'base-*'; }
# tenant/pool pid: comes back between what that process stored of a base and what it publishes.
base_is_stored() {
    local stored=() of; of=/var/lib/mvm/tenants/${1%/*}/pools/${1#*/}/artifacts/revisions
    until [ ${#stored[@]} -gt 0 ]; do
        kill -0 "$2" 2>/dev/null || fail 'it left no time to be killed'
        mapfile -t stored < <(compgen -G "$of/*/base-*.partial/mem")
    done
}

# Everything that a VM or a tenant could leave on the host, one line each; nothing when clean.
leftovers() {
    ps -eo pid=,comm= | grep -E 'firecracker|jailer|mvm-shim|mvm-pager' | sed 's/^/process /' || true
    ip -o link | grep -oE '(br-tenant-[0-9]+|tn[0-9]+i[0-9]+)' | sort -u | sed 's/^/device /' || true
    ip rule | grep -vE '^(32766|32767):|^0:.from all lookup local$' | sed 's/^/rule /' || true
    nft list tables | grep -w mvm | sed 's/^/nft /' || true
    find /sys/fs/cgroup/mvm -mindepth 1 -type d 2>/dev/null | sed 's/^/cgroup /' || true
    grep -E '/jails/|/ram/i-' /proc/self/mountinfo | sed 's/^/mount /' || true
    losetup -a | sed 's/^/loop /'
    find /dev/mapper -name 'mvm-*' | sed 's/^/open volume /'
    find /run/mvm/locks /run/mvm/vm /run/mvm/ram -mindepth 1 2>/dev/null | sed 's/^/run /' || true
    find /var/lib/mvm/jails -mindepth 2 2>/dev/null | sed 's/^/jail /' || true
    # The logs of the built-in tenant and of the node, and the directories they lie in, are nobody's leftovers.
    find /var/lib/mvm/tenants /var/lib/mvm/keys /var/lib/mvm/volumes -mindepth 1 -not -path /var/lib/mvm/keys/volumes \
        -not -regex '/var/lib/mvm/tenants/\(local\|node\)\(/audit\.log.*\|/pools\)?' 2>/dev/null | sed 's/^/file /' || true
}
clean() {
    local left; left=$(leftovers)
    [ -z "$left" ] || fail "something was left behind:
$left"
    echo 'ok: nothing is left on the host'
}
