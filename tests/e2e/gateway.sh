# tier: ci
# minutes: 6
# A gateway leads traffic by every rule and selector, and to who is available; integrations are
# saved before a sleep and restored after a wake. The documents' own lines set the scene.
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/docs.sh
cd /run

say 'roles.md, typed'
typed roles.md
gateway_id=$(mvm --json instance list shop/gateways | jq -r '.[0].instance')
gw=$(mvm --json instance list shop/gateways | jq -r '.[0].address')
readarray -t all < <(mvm --json instance list shop/workers | jq -r 'sort_by(.address)[].instance')
one=${all[0]} two=${all[1]}
both=$(printf '%s\n' "${one##*/}" "${two##*/}" | sort | tr '\n' ' ')
page() { curl -sS --max-time 10 "http://$gw$1"; }
# Who answers to N requests, one name each.
who() { local n; for n in $(seq "$2"); do page "$1"; done | sort -u | tr '\n' ' '; }
equal 'any takes turns' "$(who :80/ 4)" "$both"
equal 'the longer path and by_ip' "$(who :80/one/ 3)" "${two##*/} "
equal 'no port is port 8080' "$(who :8080/one/ 4)" "$both"
equal 'a path that no route has' "$(curl -s -o /dev/null -w '%{http_code}' "http://$gw:8080/two")" 404
equal 'the narrower source, for the host' "$(who :82/ 2)" "${one##*/} "
equal 'the wider source, for a guest' "$(guest "$one" wget -qO- "http://$gw:82/")" "${two##*/}"
exec 9<>"/dev/tcp/$gw/81"; printf 'GET / HTTP/1.0\r\n' >&9
other=$(who :81/ 3)
equal 'least_connections avoids who has one' "$(wc -w <<<"$other")" 1
exec 9>&-
printf 'GET /one/ HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n' >pipelined
equal 'one request per connection' "$(timeout 10 bash -c "exec 8<>/dev/tcp/$gw/80; cat pipelined >&8; cat <&8" | grep -c '^HTTP/1')" 1
# The gateway's processes, one line each: their user and what they may do.
rights() {
    guest "$gateway_id" sh -c 'for p in /proc/[0-9]*; do
        tr "\0" " " <"$p/cmdline" 2>/dev/null | grep -q "[ ]gateway \$" || continue
        awk "/^Uid:/ { uid = \$2 } /^CapEff:/ { print uid, \$2 }" "$p/status"
    done'
}
equal 'it runs as nobody, without rights' "$(rights)" '65534 0000000000000000'

say 'a table that is wrong is refused as a whole'
echo '{"routes": [{"name": "a", "match_rule": {"prt": 1}, "target": {"pool_id": "absent"}}, {"name": "a", "match_rule": {"port": 0}}]}' >wrong.json
for command in 'create shop/more --image default --role gateway' 'update shop/gateways'; do
    refused 6 mvm pool $command --routes wrong.json
    for finding in 'routes[0].match_rule.prt' 'routes[0].target.pool_id' 'routes[1].match_rule.port' 'routes[1].target'; do
        case "$REFUSAL" in *"$finding"*) ;; *) fail "no word about $finding: $REFUSAL" ;; esac
    done
done
equal 'no pool was made' "$(mvm --json pool list shop | jq length)" 2

say 'integrations.md, typed'
typed integrations.md
slept=$(mvm --json instance list shop/workers | jq -r '.[0].instance')
equal 'the wake restored what the sleep saved' "$(guest "$slept" cat /run/ledger.restored /data/integrations/ledger/state/ledger | tr '\n' ' ')" '42 42 '
told() { mvm --json events shop --last 200 | jq -r --arg e "$1" '[.[] | select(.event == $e) | .detail.integration] | sort | join(" ")'; }
equal 'who was saved' "$(told IntegrationCheckpointed)" ledger
equal 'who was restored' "$(told IntegrationRestored)" ledger
equal 'who failed, in two attempts' "$(told IntegrationFailed)" 'cache cache ledger'
equal 'who woke is back in the rotation' "$(who :80/ 4)" "$both"

say 'the command of a sleep is killed once it begins to freeze: the next one goes on, and the workload works'
guest "$one" sh -c 'echo 42 >/run/ledger'
mvm instance sleep "$one" 2>steps & sleeper=$!
within 60 grep -q quiesce steps || fail "it never came to the freeze: $(cat steps)"
kill -9 "$sleeper"; wait "$sleeper" || true
echo "after the kill it is $(state "$one")"
mvm --quiet instance wake "$one"
equal 'it runs' "$(state "$one")" Running
equal 'its workload answers' "$(who :80/ 4)" "$both"

say 'a critical integration keeps the guest awake, but not by force'
guest "$two" rm -f /run/ledger
refused 4 mvm instance sleep "$two"
case "$REFUSAL" in *ledger*--force*) ;; *) fail "not a helpful refusal: $REFUSAL" ;; esac
equal 'it runs on' "$(state "$two")" Running
equal 'and is in the rotation' "$(who :80/ 4)" "$both"
mvm --quiet instance sleep --force "$two"
equal 'by force it sleeps' "$(state "$two")" Sleeping
equal 'who sleeps is out of the rotation' "$(who :80/ 4)" "${one##*/} "
equal 'by_ip leads to nobody else' "$(curl -s -o /dev/null -w '%{http_code}' "http://$gw/one/")" 503

say 'a gateway that wakes knows what it missed'
mvm --quiet instance sleep "$gateway_id"
mvm --quiet instance wake "$two"
mvm --quiet instance warm "$one"
mvm --quiet instance wake "$gateway_id"
equal 'who came and who went' "$(who :80/ 3)" "${two##*/} "
mvm --quiet instance stop "$two"
check 'nobody is left' grep -q '^503 .*no instance' <<<"$(page /)"

say 'what the node shall have, as one document'
mvm --json agent desired >desired.json
python3 /usr/local/lib/mvm-e2e/fits.py agent-desired <desired.json
equal 'the node, and what its tenant is' \
    "$(jq -r '[.node_id, .schema_version, (.tenants[] | .tenant_id, .network.tenant_net_id, .network.ipv4_subnet)] | join(" ")' desired.json)" \
    "$(mvm --json node info | jq -r .node_id) 1 shop 1 10.240.1.0/24"
pools='[.tenants[0].pools[] | .pool_id, .image, .role, .instance_resources.mem_mib, .desired_counts.running] | join(" ")'
equal 'its pools' "$(jq -r "$pools" desired.json)" 'gateways default gateway 128 1 workers default worker 128 2'
equal 'the routes are those that were given' "$(jq -S '[.tenants[0].pools[0].routing_table.routes[].name]' desired.json)" "$(jq -S '[.routes[].name]' routes.json)"
equal 'so are the integrations' "$(jq -r '[.tenants[0].pools[1].integrations[] | .name, .critical] | join(" ")' desired.json)" 'ledger true cache false'
mvm agent desired --file written.json
equal 'a file has the same' "$(jq -S . written.json)" "$(jq -S . desired.json)"
equal 'what was written is read back as it was' "$(mvm --json agent desired --check written.json | jq -S .)" "$(jq -S . desired.json)"
jq '.tenants[0].pools[0].role = "worker" | .tenants[0].pools[1].desired_counts.runing = 1 | .node_id = "node-of-others"' desired.json >wrong.json
refused 6 mvm agent desired --check wrong.json
for finding in node_id 'pools[0].routing_table' 'pools[1].desired_counts.runing'; do
    case "$REFUSAL" in *"$finding"*) ;; *) fail "no word about $finding: $REFUSAL" ;; esac
done
if python3 /usr/local/lib/mvm-e2e/fits.py agent-desired <wrong.json 2>/dev/null; then fail 'the schema takes an unknown field'; fi
refused 3 mvm agent desired --tenant absent

mvm --quiet tenant destroy shop --force
equal 'no tenant is desired any more' "$(mvm --json agent desired | jq '.tenants | length')" 0
clean
