# tier: ci
# minutes: 6
# An instance boots, sleeps and wakes; what it was doing goes on.
source /usr/local/lib/mvm-e2e/prelude.sh

say 'tenant, pool, build, instance'
mvm tenant create acme --net-id 3 --subnet 10.240.3.0/24 --max-vcpus 16 --max-mem 32768 --max-running 8
mvm pool create acme/workers --image default --cpus 1 --mem 128 --data-disk 32
refused 4 mvm tenant create acme
id=$(mvm --json instance create acme/workers | jq -r .instance)
equal 'without a build it is Created' "$(state "$id")" Created
refused 4 mvm instance start "$id"
mvm pool build acme/workers
equal 'the build makes it Ready' "$(state "$id")" Ready

say 'start'
mvm instance start "$id"
equal 'it is Running' "$(state "$id")" Running
refused 4 mvm instance start "$id"
guest "$id" sh -c 'setsid sh -c "i=0; while :; do i=\$((i+1)); echo \$i >/run/counter.new; mv /run/counter.new /run/counter; sleep 0.1; done" >/dev/null 2>&1 </dev/null & echo $! >/run/counter.pid'
within 20 guest "$id" test -s /run/counter
guest "$id" sh -c 'echo kept >/data/file'
pid=$(guest "$id" cat /run/counter.pid)
address=$(guest "$id" ip -4 -o addr show eth0 | awk '{print $4}')
equal 'its address' "$address" 10.240.3.3/24
check 'the host reaches it' ping -c 1 -W 5 10.240.3.3
status=0; guest "$id" sh -c 'exit 42' || status=$?
equal "the guest's exit code is passed on" "$status" 42
equal 'standard input reaches the guest' "$(echo hello | mvm instance exec -i "$id" -- cat)" hello

say 'the VMM is behind its walls'
vmm=$(pgrep -x firecracker)
fact() { awk -v key="$1:" '$1 == key { print $2 }' "/proc/$vmm/status"; }
equal 'its uid is the instance'"'"'s' "$(fact Uid)" "$(mvm --json instance list "$id" | jq '.[0].uid')"
equal 'it has no capabilities' "$(fact CapEff)" 0000000000000000
equal 'its system calls are filtered' "$(fact Seccomp)" 2
check 'its root is the jail' test -e "/proc/$vmm/root/rootfs" -a ! -e "/proc/$vmm/root/etc"
check 'it has a pid namespace of its own' test "$(readlink "/proc/$vmm/ns/pid")" != "$(readlink /proc/self/ns/pid)"

say 'warm and back'
mvm instance warm "$id"
equal 'it is Warm' "$(state "$id")" Warm
refused 4 mvm instance start "$id"
mvm instance wake "$id"
equal 'it is Running again' "$(state "$id")" Running

wakes=()
for round in 1 2; do
    say "sleep and wake, round $round"
    before=$(guest "$id" cat /run/counter)
    mvm instance sleep "$id"
    equal 'it is Sleeping' "$(state "$id")" Sleeping
    check 'no VMM, no shim' test -z "$(pgrep -x firecracker; pgrep -x mvm-shim)"
    check 'no tap' test -z "$(ip -o link | grep -oE 'tn[0-9]+i[0-9]+' || true)"
    check 'no jail' test -z "$(find /var/lib/mvm/jails -mindepth 2 2>/dev/null)"
    equal 'no plain memory file' "$(find /run/mvm/ram -type f 2>/dev/null | wc -l)" 0
    check 'nothing readable in the snapshot' \
        test -z "$(grep -rlaE 'root:x:0:0|Linux version' --exclude-dir=base "/var/lib/mvm/tenants/acme/pools/workers/instances/${id##*/}/snapshots" || true)"
    check 'and nothing of its own in the base' \
        test -z "$(grep -rlaE "${id##*/}|10\.240\.3\.3" "/var/lib/mvm/tenants/acme/pools/workers/instances/${id##*/}/snapshots/"*/base/mem || true)"
    mvm instance wake "$id"
    equal 'it is Running' "$(state "$id")" Running
    equal 'the same process' "$(guest "$id" cat /run/counter.pid)" "$pid"
    check 'it is alive' guest "$id" kill -0 "$pid"
    after=$(guest "$id" cat /run/counter)
    check "the counter goes on ($before, $after)" test "$after" -ge "$before"
    within 20 guest "$id" sh -c "[ \$(cat /run/counter) -gt $after ]" || fail 'the counter stands still'
    equal 'the same address' "$(guest "$id" ip -4 -o addr show eth0 | awk '{print $4}')" "$address"
    equal 'the data disk' "$(guest "$id" cat /data/file)" kept
    early=$(date +%s); there=$(guest "$id" date +%s); late=$(date +%s)
    check "the clock is right within a second ($early, $there, $late)" \
        test "$there" -ge $((early - 1)) -a "$there" -le $((late + 1))
    wakes+=("$(guest "$id" sh -c 'head -c 32 /dev/urandom | od -An -tx1 | tr -d " \n"')")
done
check 'two wakes never draw the same random bytes' test "${wakes[0]}" != "${wakes[1]}"

say 'what happened is in the audit log'
equal 'events' "$(mvm --json events acme --last 100 | jq -r '[.[].event | select(startswith("Instance"))] | unique | join(" ")')" \
    'InstanceCreated InstanceReady InstanceSlept InstanceStarted InstanceWarmed InstanceWoken'

say 'a VMM that does not answer any more'
vmm=$(mvm --json instance list "$id" | jq -r '.[0].pid')
kill -STOP "$vmm"
equal 'the list says so' "$(mvm --json instance list "$id" | jq -c '.[] | [.state, .silent]')" '["Running",true]'
mvm instance stop "$id"
check 'a stop ends it' test ! -e "/proc/$vmm"
equal 'it is Stopped' "$(state "$id")" Stopped
mvm instance start "$id"

say 'a VMM that is asked just as its guest goes down'
cat >/run/ask.py <<'PY'
import socket, sys

# One request after the other, until nobody is there any more.
with socket.socket(socket.AF_UNIX) as api:
    api.connect(sys.argv[1])
    try:
        while True:
            api.sendall(b"GET / HTTP/1.1\r\n\r\n")
            if not api.recv(4096):
                break
            open("/run/asking", "w").close()
    except OSError:
        pass
PY
own=/var/lib/mvm/tenants/acme/pools/workers/instances/${id##*/}
is_stopped() { [ "$(state "$id")" = Stopped ]; }
stood_still() { grep -q 'stopped and does not end' "$own/logs/shim.log"; }
for _ in 1 2 3 4 5; do
    rm -f /run/asking
    python3 /run/ask.py "/var/lib/mvm/jails/firecracker/${id##*/}/root/run/fc.sock" &
    asks=$!
    within 20 test -e /run/asking
    guest "$id" halt || true
    within 30 is_stopped || fail 'its guest is down, and it is not'
    wait "$asks"
    equal 'the reason' "$(mvm --json instance list "$id" | jq -r '.[0].last_failure.reason')" 'the guest shut itself down'
    mvm instance start "$id"
    ! stood_still || break
done
check 'it stood still, and was ended' stood_still

say 'stop, start, destroy'
mvm instance stop "$id"
equal 'it is Stopped' "$(state "$id")" Stopped
mvm instance start "$id"
equal 'the data disk outlives a stop' "$(guest "$id" cat /data/file)" kept
mvm tenant destroy acme --force
refused 3 mvm tenant info acme
clean
