# tier: ci
# A real Prometheus reads an agent's figures: they say what happened and what there is, every expression of the
# dashboard has an answer, the shipped alerts are sound and one fires. And a host that is short of memory: only
# the coldest that may sleep goes to sleep, the pinned and the critical never, and the audit log says why.
source /usr/local/lib/mvm-e2e/prelude.sh

monitoring=/usr/local/share/mvm/monitoring
mkdir -p /etc/mvm /run/prom
desire() { # running sleeping: of the pool free
    jq -n --argjson running "$1" --argjson sleeping "$2" '
      def pool(id; running; sleeping; more): {pool_id: id, image: "default",
        instance_resources: {vcpus: 1, mem_mib: 128}, desired_counts: {running: running, sleeping: sleeping},
        runtime_policy: {min_running_seconds: 0, min_warm_seconds: 0, drain_timeout_seconds: 5},
        sleep_policy: {warm_after_seconds: 900, sleep_after_seconds: 1800, cpu_percent: 60, net_bytes: 1000000}} + more;
      {schema_version: 1, node_id: "local", tenants: [{tenant_id: "acme",
        network: {tenant_net_id: 3, ipv4_subnet: "10.240.3.0/24"},
        pools: [pool("free"; $running; $sleeping; {}), pool("held"; 1; 0; {pinned: true}),
                pool("vital"; 1; 0; {critical: true})]}]}' >/run/desired.new
    mv /run/desired.new /run/desired.json
}
settings() { printf '[policy]\nmemory_available_percent = %s\nmemory_stalled_percent = 100\n' "$1" >/etc/mvm/config.toml; }
serve() { MVM_LOG=info mvm agent serve --desired /run/desired.json --tick-secs "$1" --metrics-listen 127.0.0.1:9100 2>>/run/agent.log & agent=$!; }
stop() { kill -TERM "$1"; wait "$1" || fail "it ended with $?"; }
are() { [ "$(states "acme/$1" 2>/dev/null)" = "$2" ]; }

settings 1
equal 'the limit is shown with its origin' \
    "$(mvm --json config ls | jq -c '.[] | select(.name == "policy.memory_available_percent") | [.value, .origin]')" '["1","file"]'
desire 2 0
serve 1

say 'the alerts are sound'
promtool check rules $monitoring/alerts.yml
(cd $monitoring && promtool test rules alerts-test.yml)
# The same rules, which do not wait.
sed 's/^\( *for:\).*/\1 0s/' $monitoring/alerts.yml >/run/prom/alerts.yml
cat >/run/prom/prometheus.yml <<'YML'
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
scrape_configs: [{job_name: mvm, static_configs: [{targets: ["127.0.0.1:9100"]}]}]
YML
prometheus --config.file=/run/prom/prometheus.yml --storage.tsdb.path=/run/prom/data --web.listen-address=127.0.0.1:9090 \
    --log.level=warn 2>/run/prom/log & prometheus=$!
# The value that Prometheus has of an expression; nothing while it has none.
value() { curl -sf -m 5 http://127.0.0.1:9090/api/v1/query --data-urlencode "query=$1" | jq -r '.data.result[0].value[1] // empty'; }
is() { [ "$(value "$1")" = "$2" ]; }

say 'what there is, as Prometheus has it'
within 60 are free 'Running Running' || fail "no two run: $(cat /run/agent.log)"
within 60 are vital Running || fail "the last one does not run: $(cat /run/agent.log)"
within 20 is 'mvm_instances{tenant="acme",pool="free",state="Running"}' 2 || fail "two that run: $(cat /run/prom/log)"
equal 'it is up' "$(value 'up{job="mvm"}')" 1
equal 'starts that took some time' "$(value 'mvm_operation_duration_seconds_count{pool="free",operation="start"}')" 2
equal 'nothing was woken yet' "$(value 'mvm_operation_duration_seconds_count{pool="free",operation="wake"}')" 0
desire 1 1
within 30 is 'mvm_instances{pool="free",state="Sleeping"}' 1 || fail "none sleeps: $(states acme/free)"
equal 'and one runs' "$(value 'mvm_instances{pool="free",state="Running"}')" 1
desire 2 0
within 30 is 'mvm_instances{pool="free",state="Running"}' 2 || fail "none woke: $(states acme/free)"
equal 'none sleeps' "$(value 'mvm_instances{pool="free",state="Sleeping"}')" 0
equal 'one wake, in the histogram' "$(value 'mvm_operation_duration_seconds_bucket{pool="free",operation="wake",le="+Inf"}')" 1
equal 'one wake, as an event' "$(value 'mvm_events_total{pool="free",event="InstanceWoken"}')" 1
equal 'one sleep' "$(value 'mvm_operation_duration_seconds_count{pool="free",operation="sleep"}')" 1
equal 'as many as asked for' "$(value 'sum(mvm_pool_counted_instances - mvm_pool_desired_instances)')" 0
# These rules do not wait, and are looked at once a second: what was short is told until then.
fires() { curl -sf -m 5 http://127.0.0.1:9090/api/v1/query --data-urlencode 'query=ALERTS{alertstate="firing",alertname!~".*Slow.*"}' | jq -r '[.data.result[].metric | .alertname + " " + (.pool // "")] | join(", ")'; }
none_fires() { [ -z "$(fires)" ]; }
within 10 none_fires || fail "it fires: $(fires)"
echo 'ok: no alert but of slow wakes, which this host has'

say 'the dashboard has answers'
python3 - $monitoring/dashboard.json <<'PY'
import json, sys, urllib.parse, urllib.request
count = 0
for panel in json.load(open(sys.argv[1]))["panels"]:
    for target in panel["targets"]:
        expression = target["expr"]
        for name, text in {"$instance": ".*", "$tenant": ".*", "$__rate_interval": "1m"}.items():
            expression = expression.replace(name, text)
        data = urllib.parse.urlencode({"query": expression}).encode()
        answer = json.load(urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query", data, 10))
        assert answer["status"] == "success", (expression, answer)
        # This node has no certificates.
        assert answer["data"]["result"] or "certificate" in expression, f"nothing for {expression}"
        count += 1
print(f"ok: {count} expressions, each with an answer")
PY

say 'an agent that is gone is an alert; the next one has a limit just below what is available'
stop "$agent"
within 20 is 'ALERTS{alertname="MvmAgentDown",alertstate="firing"}' 1 || fail 'no alert fires'
memory() { awk -v name="$1:" '$1 == name { print int($2 / 1024) }' /proc/meminfo; }
settings $((($(memory MemAvailable) - 60) * 100 / $(memory MemTotal)))
# Ticks so far apart that the hog is gone before the second one that could see it.
serve 5
busy=$(mvm --json instance list acme/free | jq -r '.[0].instance')
cold=$(mvm --json instance list acme/free | jq -r '.[1].instance')
guest "$busy" touch /run/mvm/worker-busy
ticked() { is 'mvm_policy_duration_seconds_count >= bool 3' 1; }
within 30 ticked || fail 'policy does not tick'
equal 'nothing sleeps as long as there is memory' "$(states acme)" 'Running Running Running Running'
python3 -c 'import time; hog = b"x" * (170 << 20); time.sleep(60)' & hog=$!
slept() { [ "$(state "$cold")" = Sleeping ]; }
within 20 slept || fail "it does not sleep: $(states acme) $(grep Mem /proc/meminfo) $(cat /etc/mvm/config.toml /run/agent.log)"
kill "$hog"; wait "$hog" || true
from=$(value mvm_policy_duration_seconds_count)
beyond() { is "mvm_policy_duration_seconds_count >= bool $((from + 1))" 1; }
within 20 beyond || fail 'policy does not go on'
equal 'the coldest, and nobody else' "$(mvm --json instance list acme | jq -r '[.[] | select(.state != "Running") | .instance] | join(" ")')" "$cold"
equal 'who, and why' \
    "$(mvm --json events acme --event InstanceSlept --last 1 | jq -r '.[0] | [.instance, .actor, (.reason | test("the host is short of memory: [0-9]+ of [0-9]+ MiB are available"))] | join(" ")')" \
    "${cold##*/} policy true"
equal 'it is parked, not put away' "$(mvm --json instance info "$cold" | jq -r .parked_by)" policy
equal 'it counts as available' "$(value 'mvm_pool_counted_instances{pool="free",count="running"}')" 2

stop "$agent"; stop "$prometheus"
mvm --quiet tenant destroy acme --force
clean
