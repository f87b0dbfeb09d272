# tier: ci
# minutes: 2
# A machine becomes a node by a join token and in no other way; its certificate is renewed while it is asked, and
# whoever is revoked is refused at once.
source /usr/local/lib/mvm-e2e/prelude.sh

node=127.0.0.1:4433
op() { MVM_DATA_DIR=/run/fleet MVM_RUN_DIR=/run/fleet-run "$@"; }
eye() { MVM_DATA_DIR=/run/eye MVM_RUN_DIR=/run/eye-run "$@"; }
serve() { MVM_LOG=info mvm agent serve --interval-secs 600 --tick-secs 60 2>/run/agent.log & agent=$!; }
ended() { kill -TERM "$agent"; wait "$agent" || fail "the agent ended with $?"; }
listens() { ss -Hlun 'sport = :4433' | grep -q 4433; }
token() { op mvm --json coordinator token "$@" | jq -r .token; }
approve() { op mvm coordinator approve --node $node --token "$@"; }
asked() { op mvm --json coordinator status --node $node; }
log_of_node() { mvm --json events node --last 100 | jq --arg k "$1" '[.[] | select(.event == $k)] | length'; }

say 'who has neither certificate nor token listens nowhere'
op mvm --quiet agent certs init --role coordinator
serve
silent() { grep -q 'nobody can ask this node from afar' /run/agent.log; }
within 20 silent || fail "no word about it: $(cat /run/agent.log)"
listens && fail 'it listens'
ended

say 'a token'
MVM_DATA_DIR=/run/none MVM_RUN_DIR=/run/none-run refused 3 mvm coordinator token
good=$(token --valid 10m) other=$(token) short=$(token --valid 1s)
equal 'what is kept of it is the owner'"'"'s' "$(stat -c %a /run/fleet/certs/ca.tokens)" 600
check 'and proves nothing' test "$(grep -c "${good##*.}" /run/fleet/certs/ca.tokens)" = 0
mvm add host --token "$good"
serve
within 20 listens || fail "it does not listen: $(cat /run/agent.log)"
asked >/dev/null 2>&1 && fail 'a node that waits told something'
refused 9 approve "$other"
sleep_over() { [ "$(date +%s)" -gt "$((0x$(cut -d. -f2 <<<"$short")))" ]; }
within 5 sleep_over; refused 9 approve "$short"
MVM_DATA_DIR=/run/none MVM_RUN_DIR=/run/none-run mvm --quiet agent certs init --role coordinator
MVM_DATA_DIR=/run/none MVM_RUN_DIR=/run/none-run refused 9 mvm coordinator approve --node $node --token "$good"
equal 'strangers are told' "$(log_of_node JoinRefused)" 1
check 'and nothing is there' test ! -e /var/lib/mvm/certs/node.crt
id=$(mvm --json node info | jq -r .node_id)
equal 'a rehearsal signs nothing' "$(op mvm --dry-run --json coordinator approve --node $node --token "$good" | jq -r '.subject | split(" ")[0]')" "$id"
equal 'approved' "$(op mvm --json coordinator approve --node $node --token "$good" 2>/run/said | jq -r .name)" "$id"
check 'the request was shown' grep -q "$id asks for a node certificate" /run/said
equal 'it is one of the fleet at once' "$(asked | jq -r .certificate.name)" "$id"
refused 4 approve "$good"

say 'renewed while it is asked'
(while [ ! -e /run/enough ]; do asked >/dev/null || echo failed; done) >/run/failed 2>&1 & load=$!
for _ in 1 2 3; do op mvm --json coordinator renew --node $node | jq -r .serial; asked | jq -r .certificate.serial; done >/run/serials
touch /run/enough; wait $load
equal 'no request failed' "$(cat /run/failed)" ''
equal 'three certificates, each shown at once' "$(uniq -c /run/serials | awk '{print $1}' | paste -sd' ')" '2 2 2'

say 'revoked'
cat /run/fleet/certs/ca.crt /run/fleet/certs/ca.key >/run/fleet.pem; chmod 600 /run/fleet.pem
eye mvm --quiet agent certs init --ca /run/fleet.pem --role observer
eye mvm --quiet coordinator stats --node $node
op mvm coordinator revoke "$(eye mvm --json agent certs status | jq -r '.[0].serial')" --node $node
eye refused 7 mvm coordinator stats --node $node
equal 'the list is told' "$(asked | jq -c '[.revocations.number, .revocations.certificates]')" '[1,1]'
# Other books of the same authority begin at 1 again.
refused 4 op mvm coordinator revoke aabbcc --ca /run/fleet.pem --node $node
op mvm coordinator revoke "$id" --node $node
refused 9 asked
ended
refused 9 mvm agent serve --listen $node

say 'and approved again'
next=$(token); mvm --quiet add host --token "$next"
serve; within 20 listens || fail "it does not listen: $(cat /run/agent.log)"
approve "$next"
equal 'with the list' "$(asked | jq -c '[.certificate.name, .revocations.number]')" "[\"$id\",2]"
ended

say 'without a network'
off() { MVM_DATA_DIR=/run/off MVM_RUN_DIR=/run/off-run "$@"; }
off mvm agent certs request --token "$(token)" >/run/off.csr
op mvm --quiet coordinator approve --request /run/off.csr --out /run/off.pem
off mvm --quiet agent certs install /run/off.pem
equal 'installed' "$(off mvm --json agent certs status | jq -c '[.[0].role, .[0].name]')" "[\"node\",\"$(off mvm --json node info | jq -r .node_id)\"]"
refused 7 mvm agent certs install /run/off.pem
clean
