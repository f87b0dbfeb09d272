# tier: ci
# minutes: 5
# What happened is told: by whom, for which operation, in one chain. A log that was altered is noticed.
source /usr/local/lib/mvm-e2e/prelude.sh

say 'one operation id, from the command to the guest'
id=$(one_instance acme workers)
home=/var/lib/mvm/tenants/acme
logs=$home/pools/workers/instances/${id##*/}/logs
MVM_LOG=mvm_engine=debug,mvm_host=debug mvm --quiet --json instance start "$id" >/run/start.json 2>/run/start.log
op=$(jq -r .operation /run/start.json)
check "it is an id ($op)" grep -qE '^[0-9a-f]{8}$' <<<"$op"
check 'the command logged something' test "$(wc -l </run/start.log)" -gt 5
equal 'lines of the log without it' "$(grep -cv "\"operation\":\"$op\"" /run/start.log || true)" 0
check "the shim's log has it" grep -q "operation=$op" "$logs/shim.log"
within 10 grep -q "operation $op: wake" "$logs/console.log" || fail "the guest's console does not have the operation"
equal 'the audit log has it' "$(mvm --json events acme --event InstanceStarted | jq -r '.[0].detail.operation')" "$op"
equal 'and who did it' "$(mvm --json events acme --event InstanceStarted | jq -c '.[0].actor')" '{"uid":0}'
equal 'instance logs finds it' "$(mvm instance logs "$id" --source shim --operation "$op" | grep -c 'its API answers')" 1
said=$(mvm --json instance start "$id" 2>/dev/null) && fail 'a running instance was started'
check 'an error has one as well' jq -e '.operation | test("^[0-9a-f]{8}$")' <<<"$said"
MVM_LOG=mvm_engine=debug mvm --log-format human instance exec "$id" -- true 2>/run/human.log
check 'a human log has one as well' grep -qE 'operation=[0-9a-f]{8}.* exec' /run/human.log

say 'follow sees what other processes do'
mvm --json events acme --follow --last 1 >/run/follow.out & follower=$!
within 10 test -s /run/follow.out || fail 'follow does not print the last event'
mvm --quiet instance sleep "$id"
within 5 grep -q InstanceSlept /run/follow.out || fail 'follow does not see a sleep'
kill -INT "$follower"; status=0; wait "$follower" || status=$?
equal 'Ctrl-C ends it with 130' "$status" 130
equal 'each line is an event' "$(jq -r .event /run/follow.out | tail -1)" InstanceSlept
equal 'an override is told' "$(mvm --json events acme --event MinRuntimeOverridden | jq length)" 1

say 'since and filters'
mvm --quiet instance wake "$id"
equal 'by number' "$(mvm --json events acme --since 1 --last 1000 | jq '.[0].seq')" 1
equal 'by span' "$(mvm --json events acme --since 1h | jq '.[0].seq')" 1
equal 'by time' "$(mvm --json events acme --since 2999-01-01T00:00:00Z | jq length)" 0
equal 'by kind and instance' "$(mvm --json events acme --event InstanceSlept --event InstanceWoken --instance "$id" | jq -r '[.[].event] | join(" ")')" 'InstanceSlept InstanceWoken'
refused 2 mvm events acme --since yesterday

say 'an altered log is noticed, wherever it is altered'
log=$home/audit.log db=/var/lib/mvm/state.db
mvm events acme --verify
altered() {
    local what=$1 word=$2; shift 2
    cp "$log" /run/whole
    "$@"
    refused 9 mvm events acme --verify
    case "$REFUSAL" in *"$word"*) ;; *) fail "$what: it does not say '$word': $REFUSAL" ;; esac
    cp /run/whole "$log"
    check "$what: whole again when put back" mvm --quiet events acme --verify
}
altered 'an edited line' 'entry 3 was altered' sed -i '3s/"uid":0/"uid":1/' "$log"
altered 'a deleted line' 'entry 5 does not follow' sed -i 4d "$log"
altered 'the last line' 'cut short' sed -i '$d' "$log"
altered 'a truncated file' 'cut short' truncate -s 700 "$log"
sqlite3 "$db" ".backup /run/saved.db"
sqlite3 "$db" "DELETE FROM event WHERE tenant = 'acme' AND seq = 4"
refused 9 mvm events acme --verify
sqlite3 "$db" "ATTACH '/run/saved.db' AS saved; INSERT INTO event SELECT * FROM saved.event WHERE tenant = 'acme' AND seq = 4"
check 'whole again when the row is back' mvm --quiet events acme --verify

say 'rotation carries the chain over, also when it is cut off'
mkdir -p /etc/mvm
printf '[audit]\nrotate_bytes = 600\nkeep_files = 3\n' >/etc/mvm/config.toml
for count in 1 2 3 4 5 6; do mvm --quiet pool scale acme/workers --no-wait --running "$count"; done
check 'there are rotated files' test -e "$log.3"
check 'no more than are kept' test "$(find "$home" -name 'audit.log.*' | wc -l)" -le 3
mvm events acme --verify
count=0
for delay in 0.12 0.16 0.20 0.24 0.28 0.32; do
    count=$((count + 1))
    mvm --quiet pool scale acme/workers --no-wait --running 0 --sleeping "$count" >/dev/null 2>&1 & victim=$!
    sleep "$delay"; kill -KILL "$victim" 2>/dev/null || true; wait "$victim" 2>/dev/null || true
    mvm --quiet events acme --verify || fail "the log is broken by a kill after $delay s"
done
equal 'what left the store is still shown' "$(mvm --json events acme --since 1 | jq '[.[].seq] | . == [range(.[0]; .[-1] + 1)]')" true
mvm --quiet pool scale acme/workers --no-wait --running 0 --warm 0 --sleeping 0

say 'the store is lost, and made anew from files and machine'
refused 4 mvm node rebuild
second=$(mvm --json instance create acme/workers | jq -r .instance)
mvm --quiet instance start "$second"
guest "$second" sh -c 'echo kept >/run/mark'
mvm --quiet instance sleep "$second"
vmm=$(pgrep -x firecracker)
before=$(mvm --json instance list acme | jq -c '[.[] | [.instance, .state, .address, .uid]] | sort')
rm "$db" "$db"-wal "$db"-shm
refused 9 mvm instance list
mvm node rebuild --dry-run
check 'a dry run makes none' test ! -e "$db"
mvm --json node rebuild >/run/rebuilt.json
equal 'nothing is missing' "$(jq -r '.lost | length' /run/rebuilt.json)" 0
equal 'the same instances' "$(mvm --json instance list acme | jq -c '[.[] | [.instance, .state, .address, .uid]] | sort')" "$before"
equal 'the same VMM' "$(pgrep -x firecracker)" "$vmm"
equal 'the running guest answers' "$(guest "$id" echo alive)" alive
mvm --quiet instance wake "$second"
equal 'the sleeping guest wakes with its memory' "$(guest "$second" cat /run/mark)" kept
check 'the log goes on' mvm --quiet events acme --verify
equal 'and says so' "$(mvm --json events acme --event StoreRebuilt | jq length)" 1
check 'the network is as it shall be' mvm --quiet net verify
head -c 4096 /dev/urandom >"$db"; rm -f "$db"-wal "$db"-shm
mvm --quiet node rebuild >/dev/null
check 'a damaged store is kept beside the new one' test -e "$db.lost-1"
equal 'and the guests are there' "$(states acme)" 'Running Running'

say 'the settings tell where they come from'
equal 'from the file' "$(mvm --json config ls | jq -r '.[] | select(.name == "audit.keep_files") | [.value, .origin] | join(" ")')" '3 file'
equal 'from the environment' "$(MVM_LOG=error mvm --json config ls | jq -r '.[] | select(.name == "log") | [.value, .origin] | join(" ")')" 'error environment'
equal 'from a flag' "$(mvm --json --data-dir /var/lib/mvm config ls | jq -r '.[] | select(.name == "data_dir") | .origin')" flag

say 'the log of a destroyed tenant'
mvm --quiet tenant destroy acme --force
mvm events acme --archived --verify
equal 'it ends with the end' "$(mvm --json events acme --archived --last 1 | jq -r '.[0].event')" TenantDestroyed
file=$(find /var/lib/mvm/archive/acme-1 -name 'audit.log*' -size +0 | head -1)
cp "$file" /run/whole; sed -i 's/"uid":0/"uid":1/' "$file"
refused 9 mvm events acme --archived --verify
cp /run/whole "$file"
check 'whole again when put back' mvm --quiet events --archived --verify
clean
