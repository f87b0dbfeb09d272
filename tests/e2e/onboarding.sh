# tier: ci
# minutes: 4
# The onboarding guide: a host that a coordinator sees, a deployment of a template, its dashboard, its secrets,
# and the same from a manifest.
# `--image default` stands in for the guide's flake, and its sizes are made small.
source /usr/local/lib/mvm-e2e/prelude.sh
cd /run

say 'steps 1 and 2: a host, seen by its coordinator'
MVM_DATA_DIR=/run/fleet MVM_RUN_DIR=/run/fleet-run mvm --quiet agent certs init
cat /run/fleet/certs/ca.crt /run/fleet/certs/ca.key >ca.crt; chmod 600 ca.crt
mvm --quiet coordinator keygen --key coordinator.key
mvm add host --ca ca.crt --signing-key coordinator.pub
equal 'a second time nothing changes' "$(mvm --json add host --ca ca.crt --signing-key coordinator.pub | jq -c '[.[] | select(.changed)]')" '[]'
check 'the key of the fleet is not on the node' test -e /var/lib/mvm/certs/node.crt -a ! -e /var/lib/mvm/certs/ca.key
mvm agent serve --interval-secs 30 --listen 127.0.0.1:4433 & agent=$!
seen() { MVM_DATA_DIR=/run/fleet MVM_RUN_DIR=/run/fleet-run mvm --json coordinator status --node 127.0.0.1:4433 >seen 2>&1; }
within 20 seen || fail "the coordinator does not see it: $(cat seen)"
equal 'its coordinator sees it' "$(jq -r .node_id seen)" "$(mvm --json node info | jq -r .node_id)"
check 'with its size and what it has' test "$(jq '.facts | length' seen)" -ge 3
kill -TERM $agent; wait $agent || fail "the agent ended with $?"

say 'step 3: a deployment of a template'
printf '%s\n' '[secrets]' 'api_key = { file = "./api.key" }' 'token = { env = "TOKEN" }' \
    '[overrides.gateways]' 'vcpus = 1' 'mem_mib = 128' \
    '[overrides.workers]' 'vcpus = 1' 'mem_mib = 128' 'data_disk_mib = 32' 'instances = 1' >deploy.toml
printf 'k-one\n' >api.key; export TOKEN=t-one
sed 's/instances/instance/' deploy.toml >wrong.toml
refused 6 mvm new openclaw myapp --config wrong.toml --image default
case "$REFUSAL" in *wrong.toml*overrides.workers.instance:*instances*) ;; *) fail "no word about the key: $REFUSAL" ;; esac
refused 3 mvm new nothing myapp
equal 'what it would do' "$(mvm --dry-run --json new openclaw myapp --config deploy.toml --image default | jq -r '[.acts[].act] | join(" ")')" \
    'tenant_create tenant_secrets_set pool_create pool_create pool_build pool_build pool_scale pool_scale'
equal 'is only shown' "$(mvm --json tenant list | jq length)" 0
mvm new openclaw myapp --config deploy.toml --image default >steps
for step in 'tenant create' 'pool create' 'pool build' 'pool scale' 'secrets set'; do
    check "it prints the step: $step" grep -q "$step" <(tr _ ' ' <steps)
done
equal "the guide's quotas" "$(mvm --json tenant info myapp | jq -r '[.quotas.max_vcpus, .quotas.max_mem_mib] | join(" ")')" '32 65536'
equal 'gateways are ready before workers' "$(mvm --json events myapp --last 100 | jq -r '[.[] | select(.event == "InstanceStarted") | .pool][0]')" gateways
worker=$(mvm --json instance list myapp/workers | jq -r '[.[] | select(.state == "Running")][0].instance')
equal 'its secrets are delivered' "$(guest "$worker" cat /run/secrets/secrets.json | jq -r '[.api_key, .token] | join(" ")')" 'k-one t-one'
check 'a second time there is nothing to do' test "$(mvm new openclaw myapp --config deploy.toml --image default)" = 'Nothing to do.'
refused 4 mvm new openclaw myapp --image default --net-id 9

say 'step 4: the dashboard'
mvm connect myapp | tee dashboard
for line in 'Deployment: myapp' '  Gateway:  10.240.1.1' '  Subnet:   10.240.1.0/24' '  Bridge:   br-tenant-1' \
    '  myapp/gateways (role: gateway, 1vcpu/128MiB, running: 1, warm: 0)' \
    '  myapp/workers  (role: worker, 1vcpu/128MiB, running: 1, warm: 1)' \
    '  Set secrets:    mvm tenant secrets set myapp --from-file secrets.json' \
    '  List instances: mvm instance list --tenant myapp' '  Scale workers:  mvm pool scale myapp/workers --running 4 --warm 2'; do
    check "it shows: $line" grep -qxF "$line" dashboard
done
equal 'instances with their states' "$(sed -n '/^Instances/,/^$/p' dashboard | awk '/ip=10.240.1/ {print $2}' | sort | paste -sd' ')" 'Running Running Warm'
equal 'the same as JSON' "$(mvm --json connect myapp | jq -r '[.bridge, (.pools | length), (.instances | length)] | join(" ")')" 'br-tenant-1 2 3'

say 'step 5 and the second day, as the dashboard says'
echo '{"api_key": "k-two"}' >secrets.json
mvm tenant secrets set myapp --from-file secrets.json
mvm pool scale myapp/workers --running 0 --warm 0
mvm --quiet instance start "$worker"
equal 'new secrets at the next start' "$(guest "$worker" cat /run/secrets/secrets.json | jq -r .api_key)" k-two

say 'the same from a manifest, whose secrets are read again'
printf '[tenant]\nid = "myapp"\n\n[[pools]]\nid = "workers"\nimage = "default"\nvcpus = 1\nmem_mib = 128\ndata_disk_mib = 32\ndesired_running = 1\n\n[secrets]\napi_key = { file = "api.key" }\n' >manifest.toml
mvm --quiet deploy manifest.toml
equal 'the place is remembered' "$(mvm --json tenant secrets list myapp | jq -r '.keys | length')" 1
check 'what does not change is not sealed again' test "$(mvm deploy manifest.toml)" = 'Nothing to do.'
echo k-three >api.key
check 'what changed is' grep -q 'secrets' <(mvm deploy manifest.toml | tr _ ' ')
mvm tenant destroy myapp --force
clean
