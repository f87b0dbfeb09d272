# tier: ci
# minutes: 5
# A guest that eats memory and forks without end is held by its cgroup; neighbours do not notice.
# Disk and network are no faster than their limits.
source /usr/local/lib/mvm-e2e/prelude.sh

quietone=$(one_instance calm workers)
mvm --quiet instance start "$quietone"
greedy=$(one_instance greedy workers --data-disk 32 --disk-mbps 1 --net-mbps 1)
mvm --quiet instance start "$greedy"
cgroup=/sys/fs/cgroup/mvm/${greedy##*/}/vmm
echo "memory.max $(cat $cgroup/memory.max), pids.max $(cat $cgroup/pids.max), cpu.max $(cat $cgroup/cpu.max)"

say 'disk and network keep to their limits'
# 8.4 MB, of which two bucketfuls of 2 MB may come at once. Both take well under a second without a limit.
seconds() { local from=${EPOCHREALTIME/./}; "$@" >/dev/null 2>&1 || fail "$*"; echo $(((${EPOCHREALTIME/./} - from) / 1000000)); }
took=$(seconds guest "$greedy" dd if=/dev/zero of=/data/fill bs=64k count=128 conv=fsync)
check "8 MB to the disk at 1 MB/s take at least 4 s ($took s)" test "$took" -ge 4
guest "$greedy" sh -c 'setsid httpd -p 80 -h /data </dev/null >/dev/null 2>&1'
address=$(mvm --json instance list greedy | jq -r '.[0].address')
took=$(seconds curl -sf -m 60 -o /run/fill "http://$address/fill")
equal 'all of it came' "$(stat -c %s /run/fill)" $((128 * 65536))
check "8 MB from the network at 1 MB/s take at least 4 s ($took s)" test "$took" -ge 4

say 'forks without end stay inside the guest'
before=$(ps -e --no-headers | wc -l)
mvm instance exec "$greedy" -- sh -c 'while :; do sleep 600 & done' >/dev/null 2>&1 & storm=$!
for round in 1 2 3 4 5; do
    equal "the neighbour answers ($round)" "$(guest "$quietone" echo alive)" alive
    check "the VMM's tasks stay under pids.max" test "$(cat $cgroup/pids.current)" -le "$(cat $cgroup/pids.max)"
    sleep 2
done
after=$(ps -e --no-headers | wc -l)
check "the host has no more processes than before, but for the command ($before, $after)" test "$after" -le $((before + 5))
# It may have ended by itself: what a guest cannot fork, its kernel refuses.
kill -KILL "$storm" 2>/dev/null || true; wait "$storm" || echo "the storm ended with $?"
check 'the greedy guest is stopped like any other' mvm --quiet instance stop "$greedy"
check 'and started' mvm --quiet instance start "$greedy"

say 'a VMM over its memory.max is ended as a whole and named'
# The guest cannot exceed its own memory, so the limit is lowered under it, as a leak in the VMM would meet it.
echo 64M >$cgroup/memory.max || true
guest "$greedy" sh -c 'dd if=/dev/urandom of=/dev/shm/fill bs=1M count=100' >/dev/null 2>&1 || true
gone() { [ "$(state "$greedy")" = Stopped ]; }
within 30 gone || fail 'the VMM outlived its limit'
reason=$(mvm --json instance list greedy/workers | jq -r '.[0].last_failure.reason')
case "$reason" in OOM*) echo "ok: $reason" ;; *) fail "the reason is '$reason'" ;; esac
equal 'the audit log says so' "$(mvm --json events greedy | jq -r '[.[] | select(.event == "InstanceFailed")][0].reason' | cut -c1-3)" OOM
equal 'the neighbour runs on' "$(guest "$quietone" echo alive)" alive

mvm instance start "$greedy"
equal 'it can be started again' "$(state "$greedy")" Running
mvm tenant destroy greedy --force; mvm tenant destroy calm --force
clean
