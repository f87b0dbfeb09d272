# tier: ci
# minutes: 6
# Sleep costs what a guest touched, wake what it touches; who serves its pages is walled in, and no page is wrong.
source /usr/local/lib/mvm-e2e/prelude.sh

snapshot() { find /var/lib/mvm/tenants -path "*/instances/${1##*/}/snapshots/*" -name mem -not -path '*/base/*'; }
paging() { mvm --json instance stats "$1" | jq ".paging.$2"; }
sum() { guest "$1" sha256sum /run/marked | cut -d ' ' -f 1; }
reason() { mvm --json instance list "$1" | jq -r '.[0].last_failure.reason'; }
round() { mvm --quiet instance sleep "$1"; mvm --quiet instance wake "$1"; }
no_vmm() { ! pgrep -x firecracker >/dev/null; }
# file offset: another byte there.
spoil() {
    python3 - "$1" "$2" <<'P'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
at = int(sys.argv[2]) % os.fstat(f).st_size
os.pwrite(f, bytes([os.pread(f, 1, at)[0] ^ 1]), at)
P
}

say 'what is written does not depend on the size of the memory'
id=$(one_instance acme small)
mvm --quiet pool create acme/large --image default --cpus 1 --mem 1024
mvm --quiet pool build acme/large
large=$(mvm --json instance create acme/large | jq -r .instance)
mvm --quiet instance start "$large"
mvm --quiet instance sleep "$large"
mvm --quiet instance start "$id"
guest "$id" sh -c 'head -c 6000000 /dev/urandom >/run/marked'
marked=$(sum "$id")
mvm --quiet instance sleep "$id"
small_bytes=$(stat -c %s "$(snapshot "$id")") large_bytes=$(stat -c %s "$(snapshot "$large")")
echo "128 MiB: $small_bytes bytes with 6 MB of its own; 1024 MiB: $large_bytes bytes"
check 'a guest of 1024 MiB is not written as one' test "$large_bytes" -lt $((64 << 20))
check 'nor is one of 128 MiB' test "$small_bytes" -lt $((40 << 20))

say 'wake brings what is touched, and the next one in time'
mvm --quiet instance wake "$id"
first=$(paging "$id" faults)
check 'not all was brought' test "$(paging "$id" brought_pages)" -lt "$(paging "$id" snapshot_pages)"
equal 'its memory is what it was' "$(sum "$id")" "$marked"
round "$id"
round "$id"
second=$(paging "$id" faults)
mvm --json instance stats "$id" | jq -c .paging
echo "faults until it was awake: $first, then $second with $(paging "$id" prefetched_pages) pages ahead"
check 'pages came before they were asked for' test "$(paging "$id" prefetched_pages)" -gt 0
check 'fewer faults than without' test $((second * 4)) -lt "$first"
equal 'its memory is still what it was' "$(sum "$id")" "$marked"
guest "$id" sh -c 'head -c 2000000 /dev/urandom >/run/more'
more=$(guest "$id" sha256sum /run/more)
round "$id"
equal 'what changed since lies over it' "$(guest "$id" sha256sum /run/more)" "$more"
equal 'and the rest beneath' "$(sum "$id")" "$marked"
mvm instance stats "$id" | grep Pages

say 'the page server is walled in'
pager=$(pgrep -x mvm-pager)
fact() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$pager/status"; }
equal 'its uid is the instance'"'"'s' "$(fact Uid)" "$(mvm --json instance list "$id" | jq '.[0].uid')"
equal 'it has no capabilities' "$(fact CapEff)" 0000000000000000
equal 'it gets none' "$(fact NoNewPrivs)" 1
equal 'its system calls are filtered' "$(fact Seccomp)" 2
check 'it is in the cgroup of its VM' grep -q "/mvm/${id##*/}/" "/proc/$pager/cgroup"
check 'nobody else can be its VMM' test ! -e "$(echo /var/lib/mvm/jails/firecracker/"${id##*/}"/root/run/pager.sock)"

say 'what a guest gives back comes back as zero, and the rest stays'
balloon() { (cd "/var/lib/mvm/jails/firecracker/${id##*/}/root" && curl -sS --fail --unix-socket run/fc.sock -X PATCH http://localhost/balloon -d "{\"amount_mib\": $1}"); }
free_kib() { guest "$id" awk '/MemFree/ { print $2 }' /proc/meminfo; }
given_back() { [ "$(paging "$id" returned_pages)" -ge 4096 ]; }
taken_back() { [ "$(free_kib)" -gt $((before - 8192)) ]; }
before=$(free_kib)
balloon 32
check 'the guest gives memory back' within 20 given_back
echo "free in the guest: $before KiB, then $(free_kib) KiB; given back: $(paging "$id" returned_pages) pages"
balloon 0
check 'and has it again' within 20 taken_back
guest "$id" sh -c 'head -c 20000000 /dev/zero >/run/zeros; cmp -n 20000000 /run/zeros /dev/zero && rm /run/zeros'
equal 'its memory is what it was' "$(sum "$id")" "$marked"
round "$id"
equal 'also over a sleep' "$(sum "$id")" "$marked"

say 'another key while the guest runs on pages of the old one'
mvm --quiet tenant key rotate acme
round "$id"
equal 'all of it is there under the new one' "$(sum "$id")" "$marked"

say 'a sleep that fails in the middle loses nothing'
dir=$(dirname "$(dirname "$(snapshot "$id")")")
guest "$id" sh -c 'head -c 1000000 /dev/urandom >/run/late'
late=$(guest "$id" sha256sum /run/late)
chattr +i "$dir"
refused 7 mvm instance sleep "$id"
chattr -i "$dir"
equal 'it runs on' "$(state "$id")" Running
round "$id"
equal 'what it did before the failure is there' "$(guest "$id" sha256sum /run/late)" "$late"
equal 'and all before that' "$(sum "$id")" "$marked"

say 'a disk that fills up in the middle of a sleep leaves the guest running'
# Takes every free block as soon as the snapshot is being written.
python3 - "$dir" <<'P' &
import contextlib, os, sys, time
snapshots = sys.argv[1]
until = time.monotonic() + 60
while not any(name.endswith(".partial") for name in os.listdir(snapshots)):
    assert time.monotonic() < until, "no snapshot is being written"
    time.sleep(0.001)
filler = os.open("/var/lib/mvm/filler", os.O_CREAT | os.O_WRONLY)
room = os.statvfs(snapshots)
# More than there is in one piece is taken as far as it goes.
with contextlib.suppress(OSError):
    os.posix_fallocate(filler, 0, room.f_bfree * room.f_frsize)
P
filler=$!
refused 5 mvm instance sleep "$id"
wait "$filler"
check 'the reason names the disk' grep -qi 'no space' <<<"$REFUSAL"
equal 'it runs on' "$(state "$id")" Running
equal 'nothing half written stays' "$(find "$dir" -name '*.partial')" ''
equal 'its memory is what it was' "$(sum "$id")" "$marked"
refused 5 mvm instance sleep "$id"
rm /var/lib/mvm/filler
round "$id"
equal 'with room again it sleeps and wakes' "$(sum "$id")" "$marked"

say 'its death is the end of its VM'
kill -9 "$(pgrep -x mvm-pager)"
check 'it is gone' within 10 no_vmm
equal 'the instance is Stopped' "$(state "$id")" Stopped
check 'the reason says so' grep -q 'page server ended.*SIGKILL' <<<"$(reason "$id")"
check 'so does the audit log' grep -q 'page server ended' <<<"$(mvm --json events acme | jq -r '.events[]?.reason // .[]?.reason' 2>/dev/null || mvm events acme)"

say 'also when its shim died before'
mvm --quiet instance start "$id"
guest "$id" sh -c 'head -c 6000000 /dev/urandom >/run/marked'
round "$id"
kill -9 "$(pgrep -x mvm-shim)"
mvm --quiet instance warm "$id"
mvm --quiet instance wake "$id"
check 'another shim' pgrep -x mvm-shim
equal 'it works' "$(state "$id")" Running
kill -9 "$(pgrep -x mvm-pager)"
check 'it is gone' within 10 no_vmm
equal 'the instance is Stopped again' "$(state "$id")" Stopped
check 'the reason names it' grep -q 'page server ended' <<<"$(reason "$id")"

say 'a changed page is never seen'
# Without advice from others what is read late stays late.
rm -f /var/lib/mvm/tenants/acme/pools/small/artifacts/revisions/*/base-*/wanted
mvm --quiet instance start "$id"
guest "$id" sh -c 'head -c 6000000 /dev/urandom >/run/marked'
round "$id"
mvm --quiet instance sleep "$id"
file=$(snapshot "$id")
for place in 100 -20; do
    spoil "$file" "$place"
    refused 9 mvm instance wake "$id"
    equal 'it still sleeps' "$(state "$id")" Sleeping
    spoil "$file" "$place"
done
mvm --quiet instance wake "$id"
file=$(snapshot "$id")
for at in $(seq 30000 60000 "$(($(stat -c %s "$file") - 200000))"); do spoil "$file" "$at"; done
guest "$id" sha256sum /run/marked /bin/* >/dev/null 2>&1 || true
check 'it is gone' within 10 no_vmm
equal 'a guest that touches one is ended' "$(state "$id")" Stopped
check 'and the reason says what was changed' grep -q 'chunk [0-9]* of the page file was changed' <<<"$(reason "$id")"

mvm --quiet tenant destroy acme --force
clean
