# tier: full
# minutes: 4
# Versions of Firecracker side by side: a snapshot wakes under its own, a start takes the node's, gc removes what nothing needs.
source /usr/local/lib/mvm-e2e/prelude.sh

binaries=/var/lib/mvm/binaries
# The same program under another label, and told apart by its last bytes.
label() {
    cp -a "$binaries/firecracker-1.12.1" "$binaries/firecracker-$1"
    printf '%s' "$1" >>"$binaries/firecracker-$1/firecracker"
}
use() { mkdir -p /etc/mvm; printf 'firecracker = "%s"\n' "$1" >/etc/mvm/config.toml; }
runs() {
    local pid one; pid=$(head -n 1 "/sys/fs/cgroup/mvm/${1##*/}/vmm/cgroup.procs")
    for one in "$binaries"/firecracker-*; do cmp -s "/proc/$pid/exe" "$one/firecracker" && echo "${one##*-}"; done || true
}
by() { mvm --json events acme --event InstanceStarted | jq -r --arg i "${1##*/}" '[.[] | select(.instance == $i) | .detail.by] | last'; }
gone() { mvm --json "$@" | jq -r '[.removals[]? | select(.effect == "remove_version") | .subject] | join(" ")'; }
written_by() { jq -r .header.taken_on.firecracker "$1"; }

say 'one sleeps under the version that it started with'
a=$(one_instance acme workers)
mvm --quiet instance start "$a"
equal 'the built-in one' "$(runs "$a")" 1.12.1
guest "$a" sh -c 'head -c 1000000 /dev/urandom >/run/marked'
marked=$(guest "$a" sha256sum /run/marked)
mvm --quiet instance sleep "$a"

say 'the node moves on'
label 1.12.0; label 1.12.2
use 1.12.2
equal 'the setting comes from the file' "$(mvm --json config ls | jq -r '.[] | select(.name == "firecracker") | "\(.value) \(.origin)"')" '1.12.2 file'
b=$(mvm --json instance create acme/workers | jq -r .instance)
mvm --quiet instance start "$b"
equal 'a start takes the new one' "$(runs "$b")" 1.12.2
check 'the base of the old one is refused, and said so' \
    grep -q 'Firecracker "1.12.1"' <<<"$(mvm --json events acme --event BaseRefused | jq -r '.[].reason')"
equal 'it left one of its own' "$(written_by "$(echo /var/lib/mvm/tenants/acme/pools/workers/artifacts/*/base-*/header.json)")" 1.12.2

say 'what sleeps wakes under its own'
for round in 1 2; do
    mvm --quiet instance wake "$a"
    equal "round $round: the old one" "$(runs "$a")" 1.12.1
    equal "round $round: its memory is what it was" "$(guest "$a" sha256sum /run/marked)" "$marked"
    if [ "$round" = 1 ]; then
        kill -9 "$(head -n 1 "/sys/fs/cgroup/mvm/${a##*/}/shim/cgroup.procs")"
        mvm --quiet instance warm "$a"
        mvm --quiet instance wake "$a"
        equal 'another shim changes nothing' "$(runs "$a")" 1.12.1
    fi
    mvm --quiet instance sleep "$a"
    equal "round $round: its snapshot says so" \
        "$(written_by "$(find "/var/lib/mvm/tenants/acme/pools/workers/instances/${a##*/}/snapshots" -name header.json -not -path '*/base/*')")" 1.12.1
done

say 'gc keeps what is needed'
equal 'what it would remove' "$(gone --dry-run node gc)" 'Firecracker 1.12.0'
equal 'what it removes' "$(gone node gc)" 'Firecracker 1.12.0'
equal 'the others stay' "$(basename -a "$binaries"/firecracker-* | xargs)" 'firecracker-1.12.1 firecracker-1.12.2'

say 'a version that is gone'
mv "$binaries/firecracker-1.12.1" /var/lib/mvm/kept
refused 3 mvm instance wake "$a"
check 'the hint says how to get it' grep -q 'MVM_FC_VERSION=1.12.1 mvm bootstrap' <<<"$REFUSAL"
equal 'it sleeps on' "$(state "$a")" Sleeping
mvm --quiet instance stop "$a"
mvm --quiet instance start "$a"
equal 'after a stop it runs the new one' "$(runs "$a")" 1.12.2
equal 'as a clone' "$(by "$a")" clone
mv /var/lib/mvm/kept "$binaries/firecracker-1.12.1"

say 'and back'
use 1.12.1
equal 'what runs keeps its version from gc' "$(gone node gc)" ''
mvm --quiet instance stop "$a"
mvm --quiet instance sleep "$b"
equal 'so does what sleeps' "$(gone node gc)" ''
mvm --quiet instance stop "$b"
equal 'nothing needs it any more' "$(gone node gc)" 'Firecracker 1.12.2'
mvm --quiet instance start "$b"
equal 'the built-in one again' "$(runs "$b")" 1.12.1
refused 3 env MVM_FC_VERSION=9.9.9 mvm instance start "$a"
check 'a version that is not installed is named, and how to get it' grep -q 'firecracker-9.9.9.*is not installed' <<<"$REFUSAL"

rm /etc/mvm/config.toml
mvm --quiet tenant destroy acme --force
clean
