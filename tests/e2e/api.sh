# tier: ci
# minutes: 4
# A coordinator pushes a signed state over QUIC and the node follows it; what is unsigned, altered, foreign, old,
# over or of an unknown signer is refused and told; who has a foreign certificate or only looks changes nothing;
# garbage ends no server.
source /usr/local/lib/mvm-e2e/prelude.sh

node=127.0.0.1:4433 pool=acme/workers certs=/var/lib/mvm/certs
state_of() { # running sleeping
    cat <<JSON
{"schema_version": 1, "node_id": "local", "prune_unknown_tenants": true, "tenants": [{
  "tenant_id": "acme", "network": {"tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24"},
  "quotas": {"max_vcpus": 8, "max_mem_mib": 2048, "max_running": 4, "max_warm": 4, "max_pools": 2,
             "max_instances_per_pool": 8, "max_disk_gib": 10},
  "pools": [{"pool_id": "workers", "image": "default", "critical": true,
    "instance_resources": {"vcpus": 1, "mem_mib": 128, "data_disk_mib": 0},
    "desired_counts": {"running": $1, "warm": 0, "sleeping": $2},
    "runtime_policy": {"min_running_seconds": 0, "min_warm_seconds": 0, "drain_timeout_seconds": 5}
  }]}]}
JSON
}
are() { [ "$(states $pool 2>/dev/null)" = "$1" ]; }
serve() { MVM_LOG=info mvm agent serve --listen $node --interval-secs 600 --tick-secs 60 "$@" 2>>/run/agent.log & agent=$!; }
listens() { mvm coordinator status --node $node >/dev/null 2>&1; }
ended() { kill -TERM "$agent"; wait "$agent" || fail "the agent ended with $?"; }
log_of_node() { mvm --json events node --last 200 | jq -r --arg k "$1" '[.[] | select(.event == $k) | .reason] | join(",")'; }

say 'a node of its own fleet'
refused 3 mvm agent serve --listen $node
mvm agent certs init
equal 'a second time nothing changes' "$(mvm --json agent certs init | jq 'map(select(.changed)) | length')" 0
equal 'two roles, a day each, not yet due' \
    "$(mvm --json agent certs status | jq -c 'map([.role, ((.not_after - .not_before) / 3600000 | floor), .renewal_due])')" \
    '[["coordinator",24,false],["node",24,false]]'
before=$(mvm --json agent certs status | jq -r '.[1].fingerprint')
mvm --quiet agent certs rotate
check 'rotated: another certificate' test "$(mvm --json agent certs status | jq -r '.[1].fingerprint')" != "$before"
MVM_PRODUCTION=1 refused 7 mvm agent serve --listen $node
chmod 644 $certs/node.key; refused 7 mvm agent serve --listen $node; chmod 600 $certs/node.key
state_of 1 0 >/run/one.json; state_of 0 1 >/run/asleep.json; state_of 0 0 >/run/none.json
MVM_PRODUCTION=1 refused 7 mvm agent serve --desired /run/one.json

say 'keys'
mvm coordinator keygen
refused 4 mvm coordinator keygen
equal 'the key is root'"'"'s' "$(stat -c %a /etc/mvm/signing.key)" 600
mvm coordinator keygen --key /run/stranger.key
mvm --quiet add host --signing-key /etc/mvm/signing.pub
equal 'add host again changes nothing' "$(mvm --json add host --signing-key /etc/mvm/signing.pub | jq -c '[.[] | select(.changed)]')" '[]'
echo broken >/etc/mvm/trusted_keys/broken.pub

say 'a signed state is pushed and followed'
MVM_PRODUCTION=1 serve
within 20 listens || fail "it does not listen: $(cat /run/agent.log)"
id=$(mvm --json node info | jq -r .node_id)
sed "s/\"local\"/\"$id\"/" /run/one.json >/run/named.json
mvm coordinator push --desired /run/named.json --node $node
within 60 are Running || fail "no instance runs: $(cat /run/agent.log)"
listed=$(mvm --json coordinator list-instances --node $node)
one=$(jq -r '.[0].instance' <<<"$listed")
equal 'it is listed from afar' "$(jq -r '.[0].state' <<<"$listed")" Running
passed() { [ "$(mvm --json coordinator status --node $node | jq -c '[.node_id, .production, .desired.tenants, .pass.failures]')" = "[\"$id\",true,1,[]]" ]; }
within 20 passed || fail "status: $(mvm --json coordinator status --node $node)"
mvm --quiet coordinator push --desired /run/asleep.json --node $node --node-id "$id" 2>/dev/null && fail 'production took what names no node'
sed "s/\"local\"/\"$id\"/" /run/asleep.json | mvm --quiet coordinator push --desired - --node $node
within 30 are Sleeping || fail "it does not sleep: $(states $pool) $(cat /run/agent.log)"
equal 'it wakes from afar' "$(mvm --json coordinator wake --node $node "$one" | jq -r .state)" Running
equal 'and who did it is told' "$(mvm --json events acme --last 50 | jq -r '[.[] | select(.event == "InstanceWoken")][-1].actor.certificate')" coordinator:coordinator

say 'what is not right is refused and told'
push() { mvm coordinator push --node $node "$@"; }
sign() { mvm coordinator sign --desired /run/named.json "$@"; }
refused 9 push --desired /run/named.json --unsigned
sign >/run/good.json
jq '.payload |= (if .[20:21] == "A" then .[:20] + "B" + .[21:] else .[:20] + "A" + .[21:] end)' /run/good.json >/run/flipped.json
refused 9 push --envelope /run/flipped.json
mvm coordinator sign --desired /run/one.json --node-id node-other >/run/foreign.json
refused 7 push --envelope /run/foreign.json
refused 4 push --desired /run/named.json --sequence 1
sign --valid-secs 1 >/run/short.json
refused 9 push --desired /run/named.json --key /run/stranger.key
over() { [ "$(date +%s%3N)" -gt "$(jq .not_after /run/short.json)" ]; }
within 5 over; refused 9 push --envelope /run/short.json
push --envelope /run/good.json
refused 4 push --envelope /run/good.json
equal 'each has its name in the log' "$(log_of_node DesiredStateRejected)" \
    'malformed,unsigned,bad signature,wrong node,old sequence,unknown signer,expired,old sequence'

say 'who may not, changes nothing'
cat $certs/ca.crt $certs/ca.key >/run/fleet.pem; chmod 600 /run/fleet.pem
observe() { MVM_DATA_DIR=/run/eye MVM_RUN_DIR=/run/eye-run "$@"; }
observe mvm --quiet agent certs init --ca /run/fleet.pem --role observer
equal 'an observer sees' "$(observe mvm --json coordinator list-instances --node $node | jq length)" 1
observe refused 7 mvm coordinator wake --node $node "$one"
observe refused 7 mvm coordinator push --desired /run/named.json --key /etc/mvm/signing.key --node $node
foreign() { MVM_DATA_DIR=/run/foreign MVM_RUN_DIR=/run/foreign-run "$@"; }
foreign mvm --quiet agent certs init
foreign refused 9 mvm coordinator status --node $node
foreign refused 7 mvm coordinator status --node $node --tls-ca $certs/ca.crt
MVM_DATA_DIR=/run/bare MVM_RUN_DIR=/run/bare-run refused 3 mvm coordinator status --node $node

say 'garbage ends no server'
for _ in $(seq 200); do head -c $((RANDOM % 1400 + 1)) /dev/urandom >/dev/udp/127.0.0.1/4433; done 2>/dev/null
check 'and it still serves' listens

say 'a later state takes its place'
sed "s/\"local\"/\"$id\"/" /run/none.json >/run/named.json
push --desired /run/named.json
equal 'an operator puts to sleep what he woke' "$(mvm --json coordinator sleep --node $node "$one" | jq -r .state)" Sleeping
equal 'and sees it' "$(mvm --json coordinator list-tenants --node $node | jq -r '.[].tenant_id')" acme
{ jq '.tenants = []' /run/named.json; head -c 3000000 /dev/zero | tr '\0' ' '; } >/run/large.json
push --desired /run/large.json
gone() { [ "$(mvm --json tenant list | jq length)" = 0 ]; }
within 60 gone || fail "the tenant is not gone: $(cat /run/agent.log)"
ended
check 'the broken key was told' grep -q broken.pub /run/agent.log
clean
