# tier: ci
# minutes: 5
# What happened is told: by whom, why, for which operation, in one chain. A log that was altered is noticed.
source /usr/local/lib/mvm-e2e/prelude.sh

home=/var/lib/mvm/tenants/acme log=$home/audit.log db=/var/lib/mvm/state.db
scale() { mvm --quiet pool scale acme/workers --no-wait "$@"; }
intact() { mvm --quiet events acme --verify >/dev/null; }

say 'one operation id, from the command to the guest'
mvm --quiet tenant create acme
mvm --quiet pool create acme/workers --image default --cpus 1 --mem 128 --data-disk 64
mvm --quiet pool build acme/workers
id=$(mvm --json instance create acme/workers | jq -r .instance)
logs=$home/pools/workers/instances/${id##*/}/logs
MVM_LOG=mvm_engine=debug,mvm_host=debug mvm --quiet --json instance start "$id" >/run/start.json 2>/run/start.log
op=$(jq -r .operation /run/start.json)
check "it is an id ($op)" grep -qE '^[0-9a-f]{8}$' <<<"$op"
check 'the command logged something' test "$(wc -l </run/start.log)" -gt 5
equal 'lines of the log without it' "$(grep -cv "\"operation\":\"$op\"" /run/start.log || true)" 0
check "the shim's log has it" grep -q "operation=$op" "$logs/shim.log"
within 10 grep -q "operation $op: wake" "$logs/console.log" || fail "the guest's console does not have the operation"
equal 'instance logs finds it' "$(mvm instance logs "$id" --source shim --operation "$op" | grep -c 'its API answers')" 1
equal 'the audit log has it, by whom and why' \
    "$(mvm --json events acme --event InstanceStarted | jq -c '.[0] | [.detail.operation, .actor, .reason]')" "[\"$op\",{\"uid\":0},\"instance start\"]"
said=$(mvm --json instance start "$id" 2>/dev/null) && fail 'a running instance was started'
check 'an error has one as well' jq -e '.operation | test("^[0-9a-f]{8}$")' <<<"$said"

say 'follow sees what other processes do, and ends when told'
mvm --json events acme --follow --last 1 >/run/follow.out & follower=$!
within 10 test -s /run/follow.out || fail 'follow does not print the last event'
mvm --quiet instance sleep "$id"
within 5 grep -q InstanceSlept /run/follow.out || fail 'follow does not see a sleep'
kill -INT "$follower"; status=0; wait "$follower" || status=$?
equal 'Ctrl-C ends it with 130' "$status" 130
equal 'each line is an event' "$(jq -r 'select(has("seq")) | .event' /run/follow.out | tail -1)" InstanceSlept
equal 'an override is told' "$(mvm --json events acme --event MinRuntimeOverridden | jq length)" 1

say 'every event says who, why and for what'
mvm --quiet instance update "$id" --data-disk 96
mvm --json events acme --since 1 >/run/all.json
equal 'events without any of it' "$(jq '[.[] | select(.actor == null or .reason == "" or (.detail.operation | test("^[0-9a-f]{8}$") | not))] | length' /run/all.json)" 0
for kind in TenantCreated KeyCreated PoolCreated PoolBuilt InstanceCreated InstanceStarted VolumeCreated InstanceSlept SnapshotPublished VolumeGrowing; do
    jq -e --arg kind "$kind" 'any(.[]; .event == $kind)' /run/all.json >/dev/null || fail "no $kind"
done
equal 'by number' "$(jq '.[0].seq' /run/all.json)" 1
equal 'by span and kind' "$(mvm --json events acme --since 1h --event InstanceSlept --instance "$id" | jq -c '[.[].event]')" '["InstanceSlept"]'
refused 6 mvm events acme --since yesterday

say 'what belongs to no tenant is told as well'
ip tuntap add tn900i3 mode tap
mvm --quiet node gc >/dev/null
check 'the tap is gone' test ! -e /sys/class/net/tn900i3
equal 'the log of the node says so' "$(mvm --json events node | jq -c '.[-1] | [.event, .actor, .reason, (.detail.what | contains("tn900i3"))]')" \
    '["NodeCollected",{"uid":0},"nothing uses it any more",true]'

say 'an altered log is noticed, wherever it is altered'
check 'it is whole' mvm events --verify
altered() {
    local what=$1 word=$2; shift 2
    cp "$log" /run/whole
    "$@"
    refused 9 mvm events acme --verify
    case "$REFUSAL" in *"$word"*) ;; *) fail "$what: it does not say '$word': $REFUSAL" ;; esac
    cat /run/whole >"$log"
}
altered 'an edited line' 'audit.log: audit entry 3 was altered' sed -i '3s/"uid":0/"uid":1/' "$log"
altered 'a byte that means nothing' 'audit.log: line 2 is no entry as it was written' sed -i '2s/"seq":/"seq": /' "$log"
altered 'a removed line' 'audit.log: audit entry 5 does not follow' sed -i 4d "$log"
altered 'lines in another order' 'audit.log: audit entry 3 does not follow' sed -i '2{h;d};3G' "$log"
altered 'the newest line removed' 'audit.log: was cut short' sed -i '$d' "$log"
altered 'the newest bytes removed' 'audit.log: was cut short' truncate -s -5 "$log"
altered 'the rest of a line made up' 'audit.log: its last line has no end and is no entry' sh -c "printf '{\"seq\":99' >>$log"
check 'put back, it is whole' intact
sqlite3 "$db" ".backup /run/saved.db"
for seq in 4 "(SELECT MAX(seq) FROM event WHERE tenant = 'acme')"; do
    sqlite3 "$db" "DELETE FROM event WHERE tenant = 'acme' AND seq = $seq"
    refused 9 mvm events acme --verify
    sqlite3 "$db" "ATTACH '/run/saved.db' AS saved; INSERT OR IGNORE INTO event SELECT * FROM saved.event WHERE tenant = 'acme'"
done
check 'whole again when the rows are back' intact

say 'a kill between store and file, and rotation, do not break the chain'
before=$(mvm --json events acme --last 1 | jq '.[0].seq')
exec 9<>"$log"; flock 9
mvm --quiet pool scale acme/workers --running 1 >/dev/null 2>&1 9>&- & victim=$!
later() { [ "$(sqlite3 "$db" "SELECT MAX(seq) FROM event WHERE tenant = 'acme'")" -gt "$before" ]; }
within 20 later || fail 'the event is not in the store'
kill -KILL "$victim"; wait "$victim" 2>/dev/null || true
flock -u 9; exec 9>&-
equal 'the file lacks it' "$(mvm --json events acme --verify | jq '.[0].unexported')" 1
scale --running 2
equal 'the next event brings it' "$(mvm --json events acme --verify | jq -c '.[0] | [.unexported, .problems]')" '[0,[]]'
mkdir -p /etc/mvm
printf '[audit]\nrotate_bytes = 600\nkeep_files = 3\n' >/etc/mvm/config.toml
for count in 1 2 3 4 5; do scale --running "$count"; done
check 'there are rotated files' test -e "$log.3"
check 'no more than are kept' test "$(find "$home" -name 'audit.log.*' | wc -l)" -le 3
for delay in 0.10 0.16 0.22 0.28; do
    scale --running 0 --sleeping "${delay#0.}" >/dev/null 2>&1 & victim=$!
    sleep "$delay"; kill -KILL "$victim" 2>/dev/null || true; wait "$victim" 2>/dev/null || true
    intact || fail "the log is broken by a kill after $delay s"
done
echo 'ok: whole after each of four kills'
equal 'what left the store is still shown' "$(mvm --json events acme --since 1 | jq '[.[].seq] | . == [range(.[0]; .[-1] + 1)]')" true
scale --running 0 --warm 0 --sleeping 0

say 'the store is lost, and made anew from files and machine'
refused 4 mvm node rebuild
mvm --quiet instance wake "$id"
spare=$(mvm --json instance create acme/workers | jq -r .instance)
mvm --quiet instance start "$spare"
guest "$spare" sh -c 'echo mine >/data/mark && sync'
mvm --quiet instance destroy "$spare" --keep-volumes --force
vmm=$(pgrep -x firecracker)
picture() { mvm --json instance list acme | jq -c '[.[] | [.instance, .state, .address, .uid]] | sort'; mvm --json volume list; mvm --json node info | jq -r .node_id; }
before=$(picture)
rm "$db" "$db"-wal "$db"-shm
refused 9 mvm instance list
mvm node rebuild --dry-run
check 'a dry run makes none' test ! -e "$db"
mvm --json node rebuild >/run/rebuilt.json
equal 'nothing is missing' "$(jq -c .lost /run/rebuilt.json)" '[]'
equal 'the same instances, volumes, node' "$(picture)" "$before"
equal 'the same VMM' "$(pgrep -x firecracker)" "$vmm"
equal 'the running guest answers' "$(guest "$id" echo alive)" alive
check 'the log goes on' intact
equal 'and says so' "$(mvm --json events acme --event StoreRebuilt | jq length)" 1
heir=$(mvm --json instance create acme/workers --volume "${spare##*/}" | jq -r .instance)
mvm --quiet instance start "$heir"
check 'with the next start the network is as it shall be' mvm --quiet net verify
equal 'the kept volume has its bytes' "$(guest "$heir" cat /data/mark)" mine

say 'the log of a destroyed tenant'
equal 'a setting tells where it comes from' "$(mvm --json config ls | jq -r '.[] | select(.name == "audit.keep_files") | [.value, .origin] | join(" ")')" '3 file'
mvm --quiet tenant destroy acme --force
mvm events acme --archived --verify
equal 'it ends with the end' "$(mvm --json events acme --archived --last 1 | jq -r '.[0].event')" TenantDestroyed
file=$(find /var/lib/mvm/archive/acme-1 -name 'audit.log*' -size +0 | head -1)
sed -i 's/"uid":0/"uid":1/' "$file"
refused 9 mvm events acme --archived --verify
clean
