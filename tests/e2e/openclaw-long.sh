# tier: full
# minutes: 15
# brings: builder
# A deployment whose gateways and workers are built from one flake of this host, which has no inputs.
source /usr/local/lib/mvm-e2e/prelude.sh

mkdir -p /etc/mvm
printf '[builder]\nvcpus = 1\nmem_mib = 512\ndisk_mib = 512\n' >/etc/mvm/config.toml
cp -r /usr/local/share/mvm-examples/openclaw /root/openclaw
chmod -R u+w /root/openclaw
printf '%s\n' '[overrides.gateways]' 'vcpus = 1' 'mem_mib = 128' \
    '[overrides.workers]' 'vcpus = 1' 'mem_mib = 128' 'data_disk_mib = 32' 'instances = 1' 'desired_warm = 0' >/root/deploy.toml

say 'built and running'
mvm new openclaw claw --config /root/deploy.toml --flake /root/openclaw
of() { mvm --json instance list "claw/$1" | jq -r '.[0].instance'; }
gateway=$(of gateways) worker=$(of workers)
for pool in gateways workers; do
    grep -q "building packages.x86_64-linux.tenant-${pool%s}-minimal" "/var/lib/mvm/tenants/claw/pools/$pool/build.log" ||
        fail "another package was built for $pool"
done
within 30 guest "$gateway" cat /run/role >/dev/null
within 30 guest "$worker" cat /run/role >/dev/null
equal 'each runs the program of its role' "$(guest "$gateway" cat /run/role) $(guest "$worker" cat /run/role)" 'gateway worker'
address=$(mvm --json instance list claw/workers | jq -r '.[0].address')
equal 'a gateway reaches a worker' "$(guest "$gateway" wget -q -O - "http://$address:8080/")" "$(guest "$worker" hostname)"

say 'nothing new is nothing to do'
equal 'a second time' "$(mvm new openclaw claw --config /root/deploy.toml --flake /root/openclaw)" 'Nothing to do.'

say 'asleep and awake'
guest "$worker" sh -c 'echo there >/run/mark'
mvm instance sleep "$worker"
mvm instance wake "$worker"
equal 'the worker is who it was' "$(guest "$worker" cat /run/mark)" there
equal 'and is reached' "$(guest "$gateway" wget -q -O - "http://$address:8080/")" "$(guest "$worker" hostname)"

mvm tenant destroy claw --force
clean
