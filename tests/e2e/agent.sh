# tier: ci
# minutes: 6
# An agent keeps the node as it is desired: a changed document is followed, what died is started again, what
# nobody needs is parked, a command brings it back, and counts and policy do not fight.
source /usr/local/lib/mvm-e2e/prelude.sh

pool=acme/workers
desire() { # running pinned
    cat >/run/desired.new <<JSON
{"schema_version": 1, "node_id": "local", "prune_unknown_tenants": true, "tenants": [{
  "tenant_id": "acme", "network": {"tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24"},
  "quotas": {"max_vcpus": 8, "max_mem_mib": 2048, "max_running": 4, "max_warm": 4, "max_pools": 2,
             "max_instances_per_pool": 8, "max_disk_gib": 10},
  "pools": [{"pool_id": "workers", "image": "default", "critical": $2,
    "instance_resources": {"vcpus": 1, "mem_mib": 128, "data_disk_mib": 0},
    "desired_counts": {"running": $1, "warm": 0, "sleeping": 0},
    "runtime_policy": {"min_running_seconds": 0, "min_warm_seconds": 0, "drain_timeout_seconds": 5},
    "sleep_policy": {"warm_after_seconds": 4, "sleep_after_seconds": 8, "cpu_percent": 60, "net_bytes": 1000000}
  }]}]}
JSON
    mv /run/desired.new /run/desired.json
}
are() { [ "$(states $pool 2>/dev/null)" = "$1" ]; }
serve() { MVM_LOG=info mvm agent serve --desired /run/desired.json --interval-secs 5 --tick-secs 1 --metrics-listen 127.0.0.1:9100 2>>/run/agent.log & agent=$!; }

say 'from nothing'
desire 1 true
serve
within 60 are Running || fail "no instance runs: $(cat /run/agent.log)"
id=$(mvm --json instance list $pool | jq -r '.[0].instance')
equal 'the guest answers' "$(guest "$id" echo here)" here
equal 'node info knows the agent' "$(mvm --json node info | jq -c '[.agent, .off]')" '[true,[]]'
refused 4 mvm agent serve
refused 2 mvm agent serve --desired -

say 'what died is started again'
pkill -KILL -x firecracker
again() { are Running && [ "$(guest "$id" echo again 2>/dev/null)" = again ]; }
within 60 again || fail "it is not started again: $(cat /run/agent.log)"
equal 'the audit log has its end' "$(mvm --json events acme --last 100 | jq '[.[] | select(.event == "InstanceFailed")] | length')" 1

say 'what dies again waits'
pkill -KILL -x firecracker
waits() { mvm --json --dry-run agent reconcile --desired /run/desired.json | jq -e '.deferrals[0].reason | test("failed 2 times in a row, and is started in")' >/dev/null; }
within 30 waits || fail "no word about a wait: $(mvm --json --dry-run agent reconcile --desired /run/desired.json)"
within 60 again || fail "it is not started again: $(cat /run/agent.log)"
equal 'it is the same one' "$(mvm --json instance list $pool | jq -r '[.[] | .instance, .failures] | join(" ")')" "$id 2"

say 'what nobody needs is parked, and counts leave it there'
desire 1 false
within 60 are Sleeping || fail "it does not sleep: $(states $pool) $(cat /run/agent.log)"
slept() { mvm --json events acme --last 200 | jq '[.[] | select(.event == "InstanceSlept")] | length'; }
before=$(slept)
passes() { grep -c 'reconcile\|done' /run/agent.log; }
from=$(passes); beyond() { [ "$(passes)" -ge $((from + 2)) ]; }
within 30 beyond || fail 'the agent does not go on'
equal 'it still sleeps' "$(states $pool)" Sleeping
equal 'policy did it, and once' "$(slept) $(mvm --json instance info "$id" | jq -r .parked_by)" "$before policy"

say 'a command brings it back'
equal 'a command in a sleeping guest' "$(guest "$id" echo back)" back
equal 'nobody put a hold on it' "$(mvm --json instance info "$id" | jq .manual_override_until)" null
within 60 are Sleeping || fail "it does not go to sleep again: $(states $pool)"

say 'figures for Prometheus'
curl -sf -m 10 http://127.0.0.1:9100/metrics >/run/figures
figure() { awk -v name="$1" 'index($0, name) == 1 { print $NF }' /run/figures; }
equal 'starts that took some time' "$(figure 'mvm_operation_duration_seconds_count{tenant="acme",pool="workers",operation="start"}')" 3
equal 'deaths' "$(figure 'mvm_events_total{tenant="acme",pool="workers",event="InstanceFailed"}')" 2
equal 'a wake by a command of somebody else' "$(figure 'mvm_events_total{tenant="acme",pool="workers",event="InstanceWoken"}')" 1
equal 'what there is' "$(figure 'mvm_instances{tenant="acme",pool="workers",state="Sleeping"}')" 1
check 'passes of reconcile' test "$(figure mvm_reconcile_duration_seconds_count)" -ge 3

say 'so does whoever tries to reach it: at a published port, and in a guest beside it'
mvm --quiet pool create acme/askers --image default --cpus 1 --mem 128
mvm --quiet pool build acme/askers
asker=$(mvm --json instance create acme/askers | jq -r .instance)
mvm --quiet instance start "$asker"
mvm --quiet instance publish "$id" 8080:80
guest "$id" /bin/busybox sh -c 'echo reached >/run/index.html; /bin/busybox httpd -p 80 -h /run'
address=$(mvm --json instance list $pool | jq -r ".[0].address")
within 60 are Sleeping || fail "it does not go to sleep again: $(states $pool)"
equal 'a request at its port' "$(curl -s -m 30 http://127.0.0.1:8080/)" reached
within 60 are Sleeping || fail "it does not go to sleep again: $(states $pool)"
equal 'a request from beside it' "$(guest "$asker" wget -qO- "http://$address/")" reached
check 'and the log says why' test "$(mvm --json events acme --last 20 | jq '[.[] | select(.event == "InstanceWoken" and (.reason | test("tries to reach")))] | length')" -ge 2

say 'killed while it makes another one, it finds what it began'
desire 2 true
second() { [ "$(mvm --json instance list $pool | jq length)" = 2 ]; }
within 60 second || fail "no second one: $(cat /run/agent.log)"
kill -KILL "$agent"; wait "$agent" || true
serve

say 'it ends when told, guests do not notice, and the next one goes on'
within 60 are 'Running Sleeping' || within 30 are 'Running Running' || fail "no second one: $(states $pool) $(cat /run/agent.log)"
vmm=$(pgrep -x firecracker | sort | xargs)
kill -TERM "$agent"; wait "$agent" || fail "the agent ended with $?"
equal 'the same VMMs' "$(pgrep -x firecracker | sort | xargs)" "$vmm"
equal 'no agent serves' "$(mvm --json node info | jq .agent)" false
serve
jq '.tenants = []' /run/desired.json >/run/desired.new; mv /run/desired.new /run/desired.json
gone() { [ "$(mvm --json tenant list | jq length)" = 0 ]; }
within 60 gone || fail "the tenant is not gone: $(cat /run/agent.log)"
kill -TERM "$agent"; wait "$agent" || fail "the agent ended with $?"
clean
