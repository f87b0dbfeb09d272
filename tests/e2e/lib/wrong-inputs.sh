# Types wrong inputs, all of lib/wrong-inputs.txt or SAMPLE of them; SEED makes the choice repeatable.
source /usr/local/lib/mvm-e2e/prelude.sh

mvm --quiet tenant create acme --net-id 7 --max-vcpus 6 --max-mem 1024 --max-running 3 --max-warm 2 --max-pools 2 --max-instances-per-pool 6 --max-disk 2
mvm --quiet tenant create other --net-id 8 --max-vcpus 4 --max-mem 1024 --max-disk 1
mvm --quiet tenant create gone --net-id 9; mvm --quiet tenant destroy gone --force
mvm --quiet pool create acme/empty --image no-such-image --cpus 1 --mem 128
mvm --quiet pool create acme/workers --image default --cpus 1 --mem 128
mvm --quiet pool build acme/workers
mvm --quiet pool scale acme/workers --running 2 --warm 1 --sleeping 1
in_state() { mvm --json instance list acme/workers | jq -r --arg s "$1" '[.[] | select(.state == $s)][0].instance'; }
mvm --quiet instance stop "$(in_state Running)"
ready=$(mvm --json instance create acme/workers | jq -r .instance)
mvm --quiet instance create acme/workers
created=$(mvm --json instance create acme/empty | jq -r .instance)
RUNNING=$(in_state Running) WARM=$(in_state Warm) SLEEPING=$(in_state Sleeping) STOPPED=$(in_state Stopped)
READY=$ready CREATED=$created T=$(mktemp -d)
export RUNNING WARM SLEEPING STOPPED READY CREATED T
mvm --quiet net verify
# The node draws its id when it is first asked for.
mvm node info >/dev/null

say 'wrong inputs'
python3 /usr/local/lib/mvm-e2e/wrong_inputs.py
equal 'the guest never noticed' "$(guest "$RUNNING" echo alive)" alive
rm -rf "$T"
for tenant in acme other; do mvm --quiet tenant destroy "$tenant" --force; done
clean
