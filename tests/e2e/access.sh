# tier: ci
# minutes: 5
# What a person does inside one instance and with its builds: ssh, cp, console, stats, rollback, gc.
source /usr/local/lib/mvm-e2e/prelude.sh

id=$(one_instance acme workers --data-disk 32)
mvm --quiet instance start "$id"

say 'ssh'
status=0; mvm instance ssh "$id" -- 'echo "$HOME $(id -un)"; exit 7' >/tmp/out || status=$?
equal 'the exit code is passed on' "$status" 7
equal 'a command line is read by a login shell of root' "$(cat /tmp/out)" '/root root'
equal 'as somebody else' "$(mvm instance ssh -l nobody "$id" -- id -un)" nobody
equal 'what is typed into it without a terminal is read' "$(echo 'echo $((40 + 2))' | mvm instance ssh "$id")" 42
status=0; mvm instance ssh acme/workers/i-00000000 -- true 2>/dev/null || status=$?
equal 'no such instance is no code of a guest' "$status" 125
equal 'a dry run runs nothing' "$(mvm --dry-run instance ssh "$id" -- touch /run/touched)" \
    "would run in $id: /bin/sh -lc touch /run/touched"
check 'and nothing was touched' guest "$id" test ! -e /run/touched

say 'cp'
mkdir -p /tmp/tree/sub; echo one >/tmp/tree/sub/file; head -c 3000000 /dev/urandom >/tmp/tree/bytes
chmod 2640 /tmp/tree/sub/file; chown 1234:1235 /tmp/tree/sub/file; chmod 2640 /tmp/tree/sub/file; ln -s sub/file /tmp/tree/link
mvm instance cp /tmp/tree "$id:/data/copy"
equal 'mode and owner are kept on the way in' "$(guest "$id" stat -c '%a %u %g' /data/copy/sub/file)" '2640 1234 1235'
mvm instance cp "$id:/data/copy" /tmp/back
check 'the tree comes back as it was' diff -r /tmp/tree /tmp/back
equal 'owner, link, and no set-group-id bit from a guest' \
    "$(stat -c '%a %u %g' /tmp/back/sub/file) $(readlink /tmp/back/link)" '640 1234 1235 sub/file'
mvm --quiet instance cp /tmp/tree/sub/file "$id:/tmp"
equal 'a directory gets the copy inside' "$(guest "$id" cat /tmp/file)" one
mvm --quiet instance cp /tmp/tree/sub/file "$id:/tmp/other"
equal 'another name names it' "$(guest "$id" cat /tmp/other)" one
mvm --quiet instance cp "$id:/tmp/other" /tmp/new/
equal 'a slash makes the directory' "$(cat /tmp/new/other)" one
tar -C /tmp -c tree | mvm --quiet instance cp - "$id:/data/stream"
equal 'a tar stream goes in and comes out' \
    "$(mvm instance cp "$id:/data/stream/tree" - | tar -t | sort | tr '\n' ' ')" 'tree tree/bytes tree/link tree/sub tree/sub/file '
refused 3 mvm instance cp "$id:/data/absent" /tmp/absent
refused 3 mvm instance cp /tmp/absent "$id:/data/absent"
refused 6 mvm instance cp /tmp/tree "$id:relative"
refused 6 mvm instance cp "$id:/data/../etc/passwd" /tmp/passwd
refused 2 mvm instance cp /tmp/tree /tmp/tree2

say 'console'
cat >/tmp/console.py <<'PY'
import os, pty, select, subprocess, sys, time

instance = os.environ["INSTANCE"]

def check(what, good, seen=""):
    if not good: sys.exit(f"FAILED: {what}: {seen!r}")
    print(f"ok: {what}", flush=True)

class Console:
    def __init__(self):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0: os.execvp("mvm", ["mvm", "instance", "console", instance])
    def until(self, word, seconds=30):
        end = time.monotonic() + seconds
        while word not in self.seen:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                sys.exit(f"FAILED: no {word!r} in {self.seen!r}")
            try: more = os.read(self.fd, 4096)
            except OSError: more = b""
            if not more: sys.exit(f"FAILED: it ended without {word!r}: {self.seen!r}")
            self.seen += more
    def type(self, text): os.write(self.fd, text)
    def code(self): return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

subprocess.run(["mvm", "instance", "exec", instance, "--", "sh", "-c",
    "setsid sh -c 'echo ask me >/dev/ttyS0; read -r line </dev/ttyS0; echo got $line >/dev/ttyS0' >/dev/null 2>&1 </dev/null &"], check=True)
at = Console()
at.until(b"ask me")
check("the console shows what the guest prints, also what came before", True)
second = subprocess.run(["mvm", "instance", "console", instance], capture_output=True, stdin=subprocess.DEVNULL)
check("a second one is refused", second.returncode == 4, second.stderr)
at.type(b"hello\r")
at.until(b"got hello")
check("what is typed reaches the guest", True)
at.type(b"\x1d")
check("Ctrl-] leaves it", at.code() == 0)
at = Console(); at.until(b"got hello"); at.type(b"\x1d"); at.code()
check("the next one gets in", True)
PY
INSTANCE=$id python3 /tmp/console.py
check 'the log has it, too' test -n "$(mvm instance logs "$id" | grep 'got hello')"

say 'stats'
figures() { mvm --json instance stats "$id" | jq -r "$1"; }
equal 'a running instance has all figures' "$(figures '[.state, .cpu_seconds > 0, .memory.resident_bytes > 0,
    .memory.guest_used_bytes > 0, .memory.limit_bytes > 0, .network.tx_packets > 0, .disk.volume_bytes > 0,
    .health.vmm, .health.shim, .health.agent, .disk.snapshot_bytes] | map(tostring) | join(" ")')" \
    'Running true true true true true true true true true 0'
guest "$id" sh -c 'setsid timeout 15 sh -c "while :; do :; done" >/dev/null 2>&1 </dev/null &'
check 'a busy guest shows' test "$(figures '.cpu_percent > 30')" = true
status=0; timeout 4 mvm --json instance stats "$id" --watch 1 >/tmp/watched || status=$?
check "it is shown again and again ($(jq -s length /tmp/watched))" test "$(jq -s length /tmp/watched)" -ge 2 -a "$status" = 124
guest "$id" sh -c 'mkdir -p /run/mvm; touch /run/mvm/worker-idle'
within 20 sh -c "[ \"\$(mvm --json instance stats $id | jq -r .worker)\" = idle ]" || fail 'the hook is not seen'
check 'an idle worker is idle since' test "$(figures '.idle_seconds >= 0')" = true

say 'sleep and wake'
mvm --quiet instance sleep "$id"
equal 'a sleeping one has a snapshot and no process' \
    "$(figures '[.state, .disk.snapshot_bytes > 0, .health.vmm, .memory.resident_bytes, .idle_seconds >= 0] | map(tostring) | join(" ")')" \
    'Sleeping true false 0 true'
equal 'node stats count it' "$(mvm --json node stats | jq -c '[.total.states, .tenants.acme.states, .total.snapshots, .total.vcpus]')" \
    '[{"Sleeping":1},{"Sleeping":1},1,0]'
refused 4 mvm instance console "$id"
mvm --quiet instance wake "$id"
INSTANCE=$id python3 /tmp/console.py

say 'rollback and gc'
store=/var/lib/mvm/images; first=$(cat $store/refs/default); second=$(printf 'abcd%.0s' {1..16})
cp -al "$store/$first" "$store/$second"; rm "$store/$second/manifest.json"
jq --arg h "$second" '.hash = $h' "$store/$first/manifest.json" >"$store/$second/manifest.json"
refused 6 mvm pool rollback acme/workers --revision xyz
refused 3 mvm pool rollback acme/workers --revision 2
mvm pool update acme/workers --image "$second" --mem 160
equal 'an update says what it is not for' "$(mvm --json pool update acme/workers --mem 128 | jq '.notes | length')" 1
mvm pool build acme/workers
current() { basename "$(readlink /var/lib/mvm/tenants/acme/pools/workers/artifacts/current)"; }
equal 'the new build is current' "$(current)" "$second"
mvm pool rollback acme/workers --revision 2
equal 'the one before is current' "$(current)" "$first"
mvm pool rollback acme/workers --revision abcdabcd
equal 'a prefix names it' "$(current)" "$second"
mvm --quiet instance stop "$id"; mvm --quiet instance start "$id"
equal 'a start takes the current one' "$(mvm --json instance info "$id" | jq -r .image)" "$second"
mvm --quiet pool rollback acme/workers --revision 2
before=$(find /var/lib/mvm -name manifest.json | sort)
mvm --json --dry-run node gc --keep 1 >/tmp/plan
equal 'a dry run removes nothing' "$(find /var/lib/mvm -name manifest.json | sort)" "$before"
equal 'what is current and what boots stays, whatever is kept' "$(mvm --json pool gc acme/workers --keep 1 | jq '.removals // [] | map(select(.effect == "remove_revision")) | length')" 0
mvm --quiet instance stop "$id"; mvm --quiet instance start "$id"
touch "/var/lib/mvm/tenants/acme/pools/workers/instances/${id##*/}/logs/console.log.1"
mkdir -p /var/lib/mvm/jails/firecracker/i-0badcafe/root /run/mvm/vm/i-0badcafe; ip tuntap add tn3i99 mode tap
mvm pool rollback acme/workers --revision 1; mvm --quiet pool update acme/workers --image default
mvm --quiet pool build acme/workers
mvm --json --dry-run node gc --keep 1 >/tmp/plan; mvm --json node gc --keep 1 >/tmp/done
equal 'the plan and what was done are the same' "$(jq -c '[.removals[] | .effect]' /tmp/done)" "$(jq -c '[.removals[] | .effect]' /tmp/plan)"
equal 'what goes' "$(jq -r '[.removals[] | .effect] | unique | join(" ")' /tmp/done)" \
    'remove_image remove_jail remove_revision remove_rotated_logs remove_tap remove_vmm'
check 'the unused image is gone' test ! -e "$store/$second"
equal 'the guest runs on' "$(guest "$id" echo on)" on
equal 'a second one finds nothing' "$(mvm --json node gc --keep 1 | jq '.removals // [] | length')" 0
mkdir -p /var/lib/mvm/cache/blobs; head -c 3M /dev/urandom >/var/lib/mvm/cache/blobs/once
MVM_CONFIG_DIR=/run/budget; mkdir -p $MVM_CONFIG_DIR; export MVM_CONFIG_DIR
for budget in 4 2; do
    check "the cache is there before a build that may keep $budget MiB" test -e /var/lib/mvm/cache/blobs/once
    printf '[gc]\ncache_budget_mib = %s\n' "$budget" >$MVM_CONFIG_DIR/config.toml
    mvm --quiet pool build acme/workers
done
unset MVM_CONFIG_DIR
check 'what is beyond the budget is gone after a build' test ! -e /var/lib/mvm/cache/blobs/once
equal 'the audit log has it' "$(mvm --json events acme --last 100 | jq -r '[.[].event | select(startswith("Pool"))] | unique | join(" ")')" \
    'PoolBuilt PoolCollected PoolCreated PoolRolledBack PoolUpdated'
mvm --quiet tenant destroy acme --force
clean
