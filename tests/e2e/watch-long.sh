# tier: full
# minutes: 20
# Counts and policy, looked at once a second each for ten minutes: each instance is parked once by each threshold,
# and then nothing happens.
source /usr/local/lib/mvm-e2e/prelude.sh

cat >/run/desired.json <<'JSON'
{"schema_version": 1, "node_id": "local", "tenants": [{
  "tenant_id": "acme", "network": {"tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24"},
  "quotas": {"max_vcpus": 8, "max_mem_mib": 2048, "max_running": 4, "max_warm": 4, "max_pools": 2,
             "max_instances_per_pool": 8, "max_disk_gib": 10},
  "pools": [{"pool_id": "workers", "image": "default",
    "instance_resources": {"vcpus": 1, "mem_mib": 128, "data_disk_mib": 0},
    "desired_counts": {"running": 3, "warm": 0, "sleeping": 0},
    "runtime_policy": {"min_running_seconds": 0, "min_warm_seconds": 0, "drain_timeout_seconds": 5},
    "sleep_policy": {"warm_after_seconds": 20, "sleep_after_seconds": 40, "cpu_percent": 60, "net_bytes": 1000000}
  }]}]}
JSON
pool=acme/workers
MVM_LOG=info mvm agent serve --desired /run/desired.json --interval-secs 1 --tick-secs 1 2>>/run/agent.log & agent=$!
are() { [ "$(states $pool 2>/dev/null)" = "$1" ]; }
within 120 are 'Running Running Running' || fail "they do not run: $(cat /run/agent.log)"
within 180 are 'Sleeping Sleeping Sleeping' || fail "they do not sleep: $(states $pool)"
kinds() { mvm --json events acme --last 1000 | jq -c 'map(.event) | group_by(.) | map({(.[0]): length}) | add'; }
before=$(kinds); passes=$(grep -c 'done' /run/agent.log)
equal 'each was parked once by each threshold' "$(jq -c '[.InstanceWarmed, .InstanceSlept]' <<<"$before")" '[3,3]'
say 'ten minutes'
until [ "$SECONDS" -ge 600 ]; do
    sleep 20
    are 'Sleeping Sleeping Sleeping' || fail "at $SECONDS s: $(states $pool)"
done
equal 'nothing happened since' "$(kinds)" "$before"
check 'though the agent looked all the time' test $(($(grep -c 'done' /run/agent.log) - passes)) -ge 100
kill -TERM "$agent"; wait "$agent" || fail "the agent ended with $?"
mvm --quiet tenant destroy acme --force
clean
