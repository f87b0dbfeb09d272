# What the starts of a pool share, and what they do not; COUNT clones at once. Sourced by clones and clones-long.
source /usr/local/lib/mvm-e2e/prelude.sh
COUNT=${COUNT:-12}

started() { mvm --json events acme --last 200 --event InstanceStarted | jq -r --arg i "${1##*/}" --arg f "$2" '[.[] | select(.instance == $i) | .detail[$f]] | last'; }
refusals() { mvm --json events acme --event BaseRefused | jq -r '.[].reason'; }
vmm() { mvm --json instance list "$1" | jq -r '.[0].pid'; }
new() { mvm --json instance create "$1" | jq -r .instance; }
paging() { mvm --json instance stats "$1" | jq ".paging.$2"; }
# file offset: another byte there.
spoil() {
    python3 - "$1" "$2" <<'P'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
at = int(sys.argv[2])
os.pwrite(f, bytes([os.pread(f, 1, at)[0] ^ 1]), at)
P
}

say 'the first start boots and leaves a base'
mkdir -p /etc/mvm && echo 'vcpu_overcommit = 100' >>/etc/mvm/config.toml
mvm --quiet tenant create acme --max-running 60 --max-vcpus 100 --max-instances-per-pool 60
first=$(one_instance acme workers --data-disk 16)
mvm --quiet instance start "$first"
equal 'it booted' "$(started "$first" by)" boot
base=$(bases acme/workers)
equal 'what clones need, and no more' "$(ls "$base" | xargs)" 'header.json mem sums vmstate'

say 'the second is a clone of it'
second=$(new acme/workers)
mvm --quiet instance start "$second"
equal 'it did not boot' "$(started "$second" by)" clone
echo "boot $(started "$first" duration_ms) ms, clone $(started "$second" duration_ms) ms"
equal 'its disk is its own' "$(guest "$second" sh -c 'echo mine >/data/x; cat /data/x')" mine
check 'and the other does not have it' guest "$first" test ! -e /data/x
guest "$first" ping -c 1 -W 5 "$(mvm --json instance list "$second" | jq -r '.[0].address')" >/dev/null
inode() { awk '/base.mem/ { print $5; exit }' "/proc/$(vmm "$1")/maps"; }
third=$(new acme/workers)
mvm --quiet instance start "$third"
equal 'clones read one file, through one page cache' "$(inode "$third")" "$(inode "$second")"
check 'which is the base' test "$(inode "$third")" = "$(stat -c %i "$base/mem")"
check 'and map it for themselves' grep -q 'rw-p.*base.mem' "/proc/$(vmm "$third")/maps"
check 'nobody can change it' test "$(stat -c '%U %a' "$base/mem")" = 'root 444'

say 'they sleep and wake over it'
firsts=()
for i in "$first" "$second"; do
    guest "$i" sh -c 'head -c 3000000 /dev/urandom >/run/own'
    sum=$(guest "$i" sha256sum /run/own)
    mvm --quiet instance sleep "$i"
    bytes=$(stat -c %s "/var/lib/mvm/tenants/acme/pools/workers/instances/${i##*/}/snapshots/1/mem")
    check "it wrote what differs from the base: $bytes bytes" test "$bytes" -lt 12000000
    mvm --quiet instance wake "$i"
    one=$(paging "$i" faults)
    firsts+=("$one")
    equal 'its memory is what it was' "$(guest "$i" sha256sum /run/own)" "$sum"
    mvm --quiet instance sleep "$i"
    mvm --quiet instance wake "$i"
    two=$(paging "$i" faults)
    mvm --json instance stats "$i" | jq -c .paging
    echo "faults until it was awake: $one, then $two"
    equal 'also the second time' "$(guest "$i" sha256sum /run/own)" "$sum"
done
check 'twenty times fewer than when nobody knew what is wanted' test $((two * 20)) -le "${firsts[0]}"
check 'the second guest is told what the first wanted' test $((firsts[1] * 4)) -lt "${firsts[0]}"

say "$COUNT clones at once"
# The host has memory for these and no more.
mvm --quiet instance sleep "$second"
for i in "$first" "$third"; do mvm --quiet instance stop "$i"; done
mvm --quiet pool create acme/burst --image default --cpus 1 --mem 64
mvm --quiet pool build acme/burst
mvm --quiet pool scale acme/burst --running 1
mvm --quiet pool scale acme/burst --running "$COUNT"
mapfile -t all < <(mvm --json instance list acme/burst | jq -r '.[].instance')
equal 'all of them run' "$(states acme/burst)" "$(yes Running | head -n "$COUNT" | xargs)"
equal 'all but the first are clones' "$(mvm --json events acme --last 200 --event InstanceStarted | jq '[.[] | select(.pool == "burst" and .detail.by == "clone")] | length')" $((COUNT - 1))
facts='hostname; cat /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
    ip -4 -o addr show eth0 | awk "{print \$4}"
    head -c 32 /dev/urandom | sha256sum; head -c 32 /dev/random | sha256sum
    dropbearkey -t ed25519 -f /run/key 2>/dev/null | grep ^ssh-; cat /run/drawn'
# A generator of its own that begins anew when the generation rises.
drawing='(seen=; while :; do now=$(od -An -tu8 /run/mvm/generation); [ "$now" = "$seen" ] || { seen=$now; seed=$(head -c 16 /dev/urandom | sha256sum); }
    seed=$(echo "$seed" | sha256sum); echo "$seed" >/run/drawn.new; mv /run/drawn.new /run/drawn; sleep 1; done) >/dev/null 2>&1 &'
mkdir -p /run/facts
pids=()
for i in "${all[@]}"; do
    { guest "$i" sh -c "$drawing until [ -e /run/drawn ]; do sleep 1; done; $facts" >"/run/facts/${i##*/}"; } & pids+=($!)
    [ $((${#pids[@]} % 6)) = 0 ] && wait "${pids[@]}"
done
wait "${pids[@]}"
equal 'each told ten facts' "$(cat /run/facts/* | wc -l)" $((COUNT * 10))
equal 'no two of which are the same' "$(cat /run/facts/* | sort -u | wc -l)" $((COUNT * 10))

say 'a wake is another generation'
i=${all[0]}
before=$(guest "$i" cat /run/drawn)
mvm --quiet instance sleep "$i"
mvm --quiet instance wake "$i"
a=$(guest "$i" sh -c 'sleep 2; cat /run/drawn')
check 'the generator went on' test "$a" != "$before"
mvm --quiet instance stop "$i"

mvm --quiet pool destroy acme/burst --force

say 'killed between what is stored of a base and what is published'
torn=$(one_instance acme torn)
mvm --quiet instance start "$torn" & killed=$!
base_is_stored acme/torn "$killed"
kill -9 "$killed"; wait "$killed" 2>/dev/null || true
equal 'nothing is published' "$(bases acme/torn | grep -vc partial)" 0
mvm --quiet instance start "$torn"
equal 'the same command brings it up' "$(guest "$torn" echo up)" up
mvm --quiet instance stop "$torn"; mvm --quiet instance start "$torn"
mvm --quiet instance stop "$torn"; mvm --quiet instance start "$torn"
equal 'there is one base, and it is used' "$(bases acme/torn | wc -l) $(started "$torn" by)" '1 clone'
mvm --quiet pool destroy acme/torn --force

say 'what does not fit is told, and the instance boots'
sed -i 's/"kernel": "[^"]*"/"kernel": "5.4"/' "$base/header.json"
mvm --quiet instance start "$third"
equal 'it booted' "$(started "$third" by)" boot
check 'the log says why' grep -q 'host kernel.*5.4' <<<"$(refusals)"
mvm --quiet instance stop "$third"
mvm --quiet instance start "$third"
equal 'and left another base' "$(started "$third" by)" clone
mvm --quiet instance stop "$third"
spoil "$base/vmstate" 1000
mvm --quiet instance start "$third"
equal 'a changed device state is not loaded' "$(started "$third" by)" boot
check 'and told' grep -q 'vmstate does not verify' <<<"$(refusals)"

say 'who stands on a base that is gone goes on'
mvm --quiet instance wake "$second"
rm -r "$base"
mvm --quiet instance sleep "$second"
mvm --quiet instance wake "$second"
equal 'with its memory' "$(guest "$second" sha256sum /run/own)" "$sum"

say 'a changed page of it is never seen after a wake'
mvm --quiet instance sleep "$second"
mem=$(echo /var/lib/mvm/tenants/acme/pools/workers/instances/"${second##*/}"/snapshots/*/base/mem)
python3 - "$mem" <<'P'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
size, at = os.fstat(f).st_size, 0
while True:
    try: at = os.lseek(f, at, os.SEEK_DATA)
    except OSError: break
    end = os.lseek(f, at, os.SEEK_HOLE)
    for page in range(at, end, 4096): os.pwrite(f, bytes([os.pread(f, 1, page + 9)[0] ^ 1]), page + 9)
    at = end
P
refused 9 mvm instance wake "$second"
equal 'it still sleeps' "$(state "$second")" Sleeping
check 'the error names the base' grep -q 'of the base was changed' <<<"$REFUSAL"

mvm --quiet tenant destroy acme --force
clean
