# tier: ci
# minutes: 6
# The command lines of the documents, typed one by one, do what the documents say of them.
source /usr/local/lib/mvm-e2e/prelude.sh

# Types a line of a document; a real id stands in for the document's. Its output is in $OUT.
real=i-00000000
typed() { printf '\n$ %s\n' "$1"; OUT=$(eval "${1//i-a3f7b2c1/$real}"); printf '%s\n' "$OUT"; }
# Types a line at a terminal, where a destruction asks first, and answers yes.
at_terminal() { printf '\n$ %s\n' "$1"; script -qec "${1//i-a3f7b2c1/$real}" /dev/null <<<y; }
# A line that this version refuses, with this exit code.
declined() { printf '\n$ %s\n' "$2"; refused "$1" bash -c "${2//i-a3f7b2c1/$real}"; }
fits() { python3 /usr/local/lib/mvm-e2e/fits.py "$1" <<<"$OUT"; }
value() { jq -r "$1" <<<"$OUT"; }
is() { equal "$real is $1" "$(state "acme/workers/$real")" "$1"; }
pick() { mvm --json instance list acme/workers | jq -r --arg s "$1" '[.[] | select(.state == $s)][0].instance' | sed 's|.*/||'; }

say 'Reference, Tenant Management'
export MVM_DATA_DIR=/var/lib/mvm-tenants MVM_RUN_DIR=/run/mvm-tenants
typed 'mvm tenant create acme \
    --net-id 3 --subnet 10.240.3.0/24 \
    --max-vcpus 16 --max-mem 32768 \
    --max-running 8 --max-warm 4'
typed 'mvm tenant list'; check 'it is listed' grep -q acme <<<"$OUT"
typed 'mvm tenant list --json'; fits tenant-list; equal 'one tenant' "$(value length)" 1
typed 'mvm tenant info acme'; check 'quotas and network are shown' grep -q 10.240.3.0/24 <<<"$OUT"
typed 'mvm tenant info acme --json'; fits tenant-info
equal 'network, quotas and counts' "$(value '[.network.tenant_net_id, .network.ipv4_subnet, .quotas.max_vcpus, .quotas.max_mem_mib, .quotas.max_running, .quotas.max_warm, .pools, .instances] | join(" ")')" \
    '3 10.240.3.0/24 16 32768 8 4 0 0'
check 'the bridge is there' ip link show br-tenant-3
typed 'mvm tenant update acme --max-vcpus 32 --max-running 16'
equal 'the quotas are other ones' "$(mvm --json tenant info acme | jq -r '[.quotas.max_vcpus, .quotas.max_running, .quotas.max_warm] | join(" ")')" '32 16 4'
cd /run && echo '{"API_KEY": "k-1"}' >secrets.json
typed 'mvm tenant secrets set acme --from-file secrets.json'
equal 'it is listed by name' "$(mvm --json tenant secrets list acme | jq -c '[.. | strings | select(. == "API_KEY")] | length')" 1
check 'and not by value' test -z "$(mvm --json tenant secrets list acme | grep k-1)"
typed 'mvm tenant secrets rotate acme'
typed 'mvm tenant destroy acme --force'
refused 3 mvm tenant info acme
check 'nothing of it is left' test -z "$(find "$MVM_DATA_DIR/tenants" "$MVM_DATA_DIR/keys" -mindepth 1)" -a ! -e /sys/class/net/br-tenant-3
unset MVM_DATA_DIR MVM_RUN_DIR

say 'Quick Start, Multi-Tenant Mode'
typed 'mvm tenant create acme --net-id 3 --subnet 10.240.3.0/24 \
    --max-vcpus 16 --max-mem 32768 --max-running 8'

say 'Reference, Pool Management: what needs no instance'
typed 'mvm pool create acme/workers \
    --flake github:org/openclaw-worker?rev=abc123 \
    --profile minimal \
    --cpus 2 --mem 1024 \
    --data-disk 2048'
typed 'mvm pool list acme'; check 'it is listed' grep -q acme/workers <<<"$OUT"
typed 'mvm pool list acme --json'; fits pool-list; equal 'one pool' "$(value length)" 1
typed 'mvm pool info acme/workers'; check 'the source is shown' grep -q 'github:org/openclaw-worker?rev=abc123' <<<"$OUT"
typed 'mvm pool info acme/workers --json'; fits pool-info
equal 'what was asked' "$(value '[.source.flake, .profile, .role, .instance_resources.vcpus, .instance_resources.mem_mib, .instance_resources.data_disk_mib, (.revisions | length)] | join(" ")')" \
    'github:org/openclaw-worker?rev=abc123 minimal worker 2 1024 2048 0'
# Here are neither the builder image nor a way to its packages, and nobody shall wait for that.
export MVM_ASSET_MIRROR=/nowhere
declined 8 'mvm pool build acme/workers'
check 'the refusal says what is possible' grep -q -- '--image default' <<<"$REFUSAL"
declined 8 'mvm pool build acme/workers --timeout 3600'
typed 'mvm pool update acme/workers --flake github:org/app?rev=def456'
equal 'the source is another one' "$(mvm --json pool info acme/workers | jq -r .source.flake)" 'github:org/app?rev=def456'
typed 'mvm pool destroy acme/workers --force'
refused 3 mvm pool info acme/workers

say 'Quick Start, Multi-Tenant Mode'
typed 'mvm pool create acme/workers --flake github:org/app --profile minimal --cpus 2 --mem 1024'
declined 8 'mvm pool build acme/workers'
unset MVM_ASSET_MIRROR
mvm --quiet pool update acme/workers --image default --cpus 1 --mem 128
typed 'mvm pool build acme/workers'
typed 'mvm pool scale acme/workers --running 3 --warm 1'
equal 'they are there' "$(states acme/workers)" 'Running Running Running Warm'
typed 'mvm instance list acme/workers'; equal 'a head and four lines' "$(wc -l <<<"$OUT")" 5
real=$(pick Running)
typed 'echo hostname | mvm instance ssh acme/workers/i-a3f7b2c1'; check 'a shell in it' test -n "$OUT"
typed 'mvm instance sleep acme/workers/i-a3f7b2c1'; is Sleeping
typed 'mvm instance wake acme/workers/i-a3f7b2c1'; is Running

say 'Reference, Instance Operations'
typed 'mvm instance list'; check 'all' grep -q "$real" <<<"$OUT"
typed 'mvm instance list --tenant acme'; equal 'four' "$(wc -l <<<"$OUT")" 5
typed 'mvm instance list --tenant acme --pool workers'; equal 'four' "$(wc -l <<<"$OUT")" 5
typed 'mvm instance list --json'; fits instance-list; equal 'four' "$(value length)" 4
typed 'mvm instance stop acme/workers/i-a3f7b2c1'; is Stopped
typed 'mvm instance start acme/workers/i-a3f7b2c1'; is Running
typed 'mvm instance warm acme/workers/i-a3f7b2c1'; is Warm
typed 'mvm instance sleep acme/workers/i-a3f7b2c1'; is Sleeping
typed 'mvm instance wake acme/workers/i-a3f7b2c1'; is Running
typed 'mvm instance sleep acme/workers/i-a3f7b2c1 --force  # skip vsock drain, sleep immediately'; is Sleeping
typed 'mvm instance wake acme/workers/i-a3f7b2c1'; is Running
typed 'echo "exit 5" | mvm instance ssh acme/workers/i-a3f7b2c1 || echo "code $?"'; equal 'the shell ends with its own code' "$OUT" 'code 5'
typed 'mvm instance stats acme/workers/i-a3f7b2c1'
for fact in CPU Memory Idle Health snapshots; do check "$fact is shown" grep -q "$fact" <<<"$OUT"; done
typed 'mvm instance stats acme/workers/i-a3f7b2c1 --json'; fits instance-stats
typed 'mvm instance logs acme/workers/i-a3f7b2c1'; check 'console and VMM' grep -q -- '--- VMM ---' <<<"$OUT"
at_terminal 'mvm instance destroy acme/workers/i-a3f7b2c1'
refused 3 mvm instance info "acme/workers/$real"
real=$(pick Warm)
at_terminal 'mvm instance destroy acme/workers/i-a3f7b2c1 --wipe-volumes'
refused 3 mvm instance info "acme/workers/$real"

say 'Day-2 Operations, and the rest of Pool Management'
typed 'mvm node info                  # node capabilities (CPUs, memory, KVM)'
for fact in CPUs Memory KVM Firecracker Jailer cgroup nftables Bridges; do check "$fact is shown" grep -q "$fact" <<<"$OUT"; done
typed 'mvm node stats                 # aggregate fleet stats across tenants'; check 'by tenant' grep -q acme <<<"$OUT"
typed 'mvm instance list              # all instances across all tenants'
typed 'mvm tenant info acme --json    # full config as JSON'; fits tenant-info
typed 'mvm events acme --last 10      # recent audit events'; equal 'ten and a head' "$(wc -l <<<"$OUT")" 11
typed 'mvm agent desired --file desired.json'
equal 'the desired state is in the file' "$(jq -r '[.schema_version, .tenants[0].tenant_id] | join(" ")' desired.json)" '1 acme'
typed 'mvm pool scale acme/workers --running 5 --warm 2 --sleeping 3'
equal 'they are there' "$(states acme/workers)" \
    'Running Running Running Running Running Sleeping Sleeping Sleeping Warm Warm'
typed 'mvm --json pool scale acme/workers --running 5 --warm 2 --sleeping 3'; fits pool-scale
equal 'the second time there is nothing to do' "$(value '.changes | length')" 0
real=$(pick Running)
typed 'mvm instance sleep acme/workers/i-a3f7b2c1'; is Sleeping
typed 'mvm instance wake acme/workers/i-a3f7b2c1'; is Running

store=/var/lib/mvm/images; first=$(cat $store/refs/default); second=$(printf 'abcd%.0s' {1..16})
cp -al "$store/$first" "$store/$second"; rm "$store/$second/manifest.json"
jq --arg h "$second" '.hash = $h' "$store/$first/manifest.json" >"$store/$second/manifest.json"
mvm --quiet pool update acme/workers --image "$second"; mvm --quiet pool build acme/workers
typed 'mvm pool rollback acme/workers --revision 2'
equal 'the build before is current' "$(mvm --json pool info acme/workers | jq -r .current)" "$first"
typed 'mvm pool gc acme/workers'
typed 'mvm node gc'
check 'what is current stays' test -e "$store/$first/manifest.json"

say 'Reference, net and node'
typed 'mvm net verify'; check 'nothing is wrong' grep -q 'as it shall be' <<<"$OUT"
typed 'mvm net verify --json'; fits net-verify; equal 'no findings' "$(value '.findings | length')" 0
typed 'mvm node info'
typed 'mvm node info --json'; fits node-info; equal 'KVM' "$(value .kvm)" true
typed 'mvm node stats'
typed 'mvm node stats --json'; fits node-stats
equal 'counts and snapshots of each tenant' "$(value '.tenants.acme | [.states.Running, .states.Warm, .states.Sleeping, .snapshots] | join(" ")')" '5 2 3 3'
OUT=$(mvm --json events acme --last 100); fits events
OUT=$(mvm --json --dry-run pool scale acme/workers --running 0); fits pool-scale
OUT=$(mvm --json instance info acme/workers/i-00000000 2>/dev/null || true); fits instance-info

say 'Teardown'
typed 'mvm tenant destroy acme --force'
refused 3 mvm tenant info acme
mvm --quiet tenant create acme
typed 'mvm tenant destroy acme --force --wipe-volumes'
refused 3 mvm tenant info acme
clean
