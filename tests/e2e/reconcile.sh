# tier: ci
# minutes: 4
# A desired state is brought about and kept: two tenants, one pool that cannot be built beside good ones;
# a pass at rest, other counts and limits, a VMM that died, a person's command, what is not wanted any more.
source /usr/local/lib/mvm-e2e/prelude.sh
cd /run

# pool role image running warm
pool() {
    jq -n --arg id "$1" --arg role "$2" --arg image "$3" --argjson running "$4" --argjson warm "$5" '{
        pool_id: $id, image: $image, role: $role, instance_resources: {vcpus: 1, mem_mib: 128},
        desired_counts: {running: $running, warm: $warm}}'
}
# tenant net-id max-running pools…
tenant() {
    local id=$1 net=$2 most=$3; shift 3
    printf '%s\n' "$@" | jq -s --arg id "$id" --argjson net "$net" --argjson most "$most" '{
        tenant_id: $id, network: {tenant_net_id: $net, ipv4_subnet: "10.240.\($net).0/24"},
        quotas: {max_running: $most}, pools: .}'
}
state_of() { printf '%s\n' "$@" | jq -s '{schema_version: 1, node_id: "local", tenants: .}'; }
entries() { for t in acme bolt node; do mvm --json events "$t" --last 1000 2>/dev/null | jq length; done | paste -sd' '; }
at_rest() {
    local before; before=$(entries)
    equal "at rest: $1" "$(mvm agent reconcile --desired desired.json)" 'Nothing to do.'
    equal 'and nothing was written' "$(entries)" "$before"
}

say 'a wrong document changes nothing'
state_of "$(tenant acme 3 4 "$(pool web worker default 1 0)" "$(pool web worker default 101 0)")" >wrong.json
refused 6 mvm agent reconcile --desired wrong.json
for finding in 'tenants[0].pools[1].pool_id' 'tenants[0].pools[1].desired_counts.running'; do
    case "$REFUSAL" in *"$finding"*) ;; *) fail "no word about $finding: $REFUSAL" ;; esac
done
equal 'no tenant was made' "$(mvm --json tenant list | jq length)" 0

say 'two tenants, and a pool whose image is not there'
state_of "$(tenant acme 3 4 "$(pool gates gateway default 1 0)" "$(pool lost worker absent 1 0)" "$(pool web worker default 1 1)")" \
    "$(tenant bolt 4 4 "$(pool web worker default 1 0)")" >desired.json
equal 'the plan' "$(mvm --dry-run --json agent reconcile --desired desired.json | jq '.acts | length')" 14
equal 'and it was only shown' "$(mvm --json tenant list | jq length)" 0
refused 3 mvm agent reconcile --desired desired.json
case "$REFUSAL" in *acme/lost*) ;; *) fail "no word about acme/lost: $REFUSAL" ;; esac
equal 'the others of its tenant' "$(states acme)" 'Running Running Warm'
equal 'the other tenant' "$(states bolt)" Running
equal 'gateways came first' "$(mvm --json events acme --last 100 | jq -r '[.[] | select(.event == "InstanceStarted") | .pool][0]')" gates
refused 3 mvm agent reconcile --desired desired.json
equal 'no event of it is a person'"'"'s' "$(mvm --json events acme --last 100 | jq '[.[] | select(.actor | type == "object")] | length')" 0
jq 'del(.tenants[0].pools[1])' desired.json >next.json; mv next.json desired.json
at_rest 'without the wrong pool'

say 'other counts and limits, from standard input'
jq '.tenants[0].quotas.max_running = 3 | .tenants[0].pools[1].desired_counts = {running: 2} |
    .tenants[1].pools[0].desired_counts = {warm: 1}' desired.json >next.json; mv next.json desired.json
mvm agent reconcile --desired - <desired.json
equal 'the warm one runs' "$(states acme/web)" 'Running Running'
equal 'the running one is warm' "$(states bolt/web)" Warm
equal 'the limit' "$(mvm --json tenant info acme | jq .quotas.max_running)" 3
at_rest 'after the change'

say 'what died runs again, and what a person stopped stays'
readarray -t web < <(mvm --json instance list acme/web | jq -r 'sort_by(.instance)[].instance')
kill -9 "$(mvm --json instance list acme/web | jq ".[] | select(.instance == \"${web[0]}\") | .pid")"
mvm agent reconcile --desired desired.json
equal 'the dead one' "$(state "${web[0]}")" Running
equal 'is left to policy and counts' "$(mvm --json instance info "${web[0]}" | jq .manual_override_until)" null
mvm instance stop "$(mvm --json instance list acme/gates | jq -r '.[0].instance')"
mvm --json agent reconcile --desired desired.json >outcome.json
equal 'a gateway in place of the one that a person stopped' "$(states acme/gates)" 'Running Stopped'

say 'what is not wanted any more'
jq 'del(.tenants[1]) | del(.tenants[0].pools[1])' desired.json >next.json; mv next.json desired.json
mvm agent reconcile --desired desired.json
equal 'stays' "$(mvm --json tenant list | jq -r '[.[].tenant_id] | join(" ")')" 'acme bolt'
mvm agent reconcile --desired desired.json --prune
equal 'until it is pruned' "$(mvm --json tenant list | jq -r '[.[].tenant_id] | join(" ")') $(mvm --json pool list acme | jq -r '[.[].pool] | join(" ")')" 'acme acme/gates'

say 'a manifest, watched'
printf '[tenant]\nid = "acme"\n\n[[pools]]\nid = "jobs"\nimage = "default"\nvcpus = 1\nmem_mib = 128\ndesired_runing = 1\n' >deploy.toml
refused 6 mvm deploy deploy.toml
case "$REFUSAL" in *'pools[0].desired_runing'*desired_running*) ;; *) fail "no word about the key: $REFUSAL" ;; esac
sed -i 's/runing = 1/running = 0/' deploy.toml
mvm --quiet deploy deploy.toml --watch --interval 1 & watch=$!
pools_of() { mvm --json pool list acme | jq -r '[.[].pool] | join(" ")'; }
within 30 sh -c 'mvm --json pool list acme | grep -q acme/jobs' || fail 'the pool is not made'
sed 's/"jobs"/"more"/' deploy.toml >next.toml; mv next.toml deploy.toml
within 30 sh -c 'mvm --json pool list acme | grep -q acme/more' || fail 'the change is not seen'
kill -INT $watch; code=0; wait $watch || code=$?
equal 'Ctrl-C ends it' "$code" 130
equal 'what the manifest does not name stays' "$(pools_of)" 'acme/gates acme/jobs acme/more'
mvm tenant destroy acme --force
clean
