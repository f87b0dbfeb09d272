# tier: ci
# minutes: 6
# Guests resolve names, ports of the host lead to them, packets fit; net verify tells what holds.
source /usr/local/lib/mvm-e2e/prelude.sh

say 'a world outside with a resolver, and a resolver of the host itself'
world_outside 1400
ip netns exec world python3 /usr/local/lib/mvm-e2e/resolver.py 198.51.100.2 203.0.113.1 & outer=$!
python3 /usr/local/lib/mvm-e2e/resolver.py 198.51.100.1 203.0.113.2 & inner=$!
within 20 nc -z 198.51.100.1 53 || fail 'the resolver does not listen'
within 20 nc -z 198.51.100.2 53 || fail 'the outer resolver does not listen'
rm -f /etc/resolv.conf; echo 'nameserver 198.51.100.2' >/etc/resolv.conf

say 'two tenants, three guests, two published ports'
mvm --quiet tenant create red; mvm --quiet tenant create blue
for pool in red/workers blue/workers; do
    mvm --quiet pool create "$pool" --image default --cpus 1 --mem 128; mvm --quiet pool build "$pool"
done
python3 -m http.server 8090 >/dev/null 2>&1 & server=$!
within 20 nc -z 127.0.0.1 8090 || fail 'the server does not listen'
refused 4 mvm instance create red/workers --publish 8090:80
refused 6 mvm instance create red/workers --publish 8080
red1=$(mvm --json instance create red/workers --publish 8080:80 --publish 127.0.0.1:8081:80 | jq -r .instance)
refused 4 mvm instance create blue/workers --publish 8080:80
case "$REFUSAL" in *"$red1"*) ;; *) fail "the holder is not named: $REFUSAL" ;; esac
equal 'a refused port makes no instance' "$(mvm --json instance list blue | jq length)" 0
red2=$(mvm --json instance create red/workers | jq -r .instance)
blue1=$(mvm --json instance create blue/workers | jq -r .instance)
for i in "$red1" "$red2" "$blue1"; do mvm --quiet instance start "$i"; done
where() { mvm --json instance list "$1" | jq -r '.[0].address'; }
r1=$(where "$red1"); r2=$(where "$red2"); b1=$(where "$blue1")
equal 'the ports are shown' "$(mvm --json instance list "$red1" | jq -c '.[0].publish')" '["8080:80/tcp","127.0.0.1:8081:80/tcp"]'

say 'names, and what a guest is told'
resolves() { guest "$1" nslookup "$2.test" 2>&1 | grep -q "$3"; }
check 'a name resolves through the gateway' resolves "$red1" world 203.0.113.1
equal 'resolv.conf names the gateway' "$(guest "$red1" cat /etc/resolv.conf)" "nameserver ${r1%.*}.1"
check 'hosts has its own name' guest "$red1" grep -q "^$r1.*${red1##*/}\$" /etc/hosts
check 'hosts has localhost' guest "$red1" grep -q '^127.0.0.1.*localhost' /etc/hosts
equal 'its name is its id' "$(guest "$red1" hostname)" "${red1##*/}"
equal 'its packets fit the smallest uplink' "$(guest "$red1" cat /sys/class/net/eth0/mtu)" 1400
equal 'of the host only the gateway'"'"'s port 53 is open' \
    "$(opens "$red1" {"${r1%.*}.1","${b1%.*}.1",198.51.100.1}:{22,53})" "${r1%.*}.1:53"

say 'published ports'
serve() { guest "$red1" sh -c 'mkdir -p /run/www; echo served >/run/www/index.html; setsid httpd -p 80 -h /run/www </dev/null >/dev/null 2>&1'; }
serve
gets() { [ "$("$@" 2>/dev/null)" = served ]; }
outside() { ip netns exec world curl -s -m 5 "$1"; }
check 'from outside' gets outside 198.51.100.1:8080
check 'from the host, by its loopback address' gets curl -s -m 5 127.0.0.1:8080
check 'from the host, by its own address' gets curl -s -m 5 198.51.100.1:8080
check 'one that is for the host alone' gets curl -s -m 5 127.0.0.1:8081
gets outside 198.51.100.1:8081 && fail 'a port for the host alone is open to others'
equal 'another tenant reaches it by no address' \
    "$(opens "$blue1" "${b1%.*}.1:53" 198.51.100.1:8080 "${b1%.*}.1:8080" "$r1:80")" "${b1%.*}.1:53"
mvm --quiet instance sleep "$red1"; mvm --quiet instance wake "$red1"
check 'after sleep and wake' gets outside 198.51.100.1:8080
mvm --quiet instance publish "$red2" 8090:80 && fail 'a port in use was published'
mvm --quiet instance unpublish "$red1" 8080:80
gets outside 198.51.100.1:8080 && fail 'a port that was unpublished is open'
mvm --quiet instance publish "$red2" 8080:80
mvm --quiet instance unpublish "$red2" 8080:80; mvm --quiet instance publish "$red1" 8080:80
check 'published again' gets outside 198.51.100.1:8080

say 'another resolver is noticed'
echo 'nameserver 198.51.100.1' >/etc/resolv.conf
mvm --json net verify >/run/verify.json && fail 'net verify did not notice the new resolver'
check 'net verify names it' grep -q 'name queries go to 198.51.100.2 and not to 198.51.100.1' /run/verify.json
mvm --quiet instance warm "$red2"; mvm --quiet instance wake "$red2"
mvm --quiet instance sleep "$red2"; mvm --quiet instance wake "$red2"
check 'the next wake follows it, here to the host itself' resolves "$red1" world 203.0.113.2
equal 'net verify is content' "$(mvm --json net verify | jq '.findings | length')" 0
equal 'node info shows it' "$(mvm --json node info | jq -r '.dns.resolvers[0]')" 198.51.100.1

say 'without any nft rule the host is closed all the same'
nft flush ruleset
equal 'nothing of the host answers' \
    "$(opens "$red1" "${r1%.*}.1:22" 198.51.100.1:22 198.51.100.1:53 "${b1%.*}.1:22")" ''
mvm --quiet instance sleep "$red2"; mvm --quiet instance wake "$red2"
check 'the next wake puts everything back' resolves "$red1" world 203.0.113.2
check 'published ports too' gets curl -s -m 5 127.0.0.1:8080

say 'with both walls broken, guests tell what they reach'
equal 'while they stand nothing is found' "$(mvm --json net verify --deep | jq '.findings | length')" 0
nft flush ruleset; ip rule flush protocol 109
mvm --json net verify --deep >/run/deep.json && fail 'net verify --deep found nothing'
reached() { jq -e --arg p "$1 reached $2" '[.findings[].problem | select(startswith($p))] | length > 0' /run/deep.json >/dev/null; }
check 'a guest of another tenant' reached "$blue1" red/workers/
check 'the gateway of another tenant' reached "$red1" 'the gateway of blue'
check 'the host' reached "$red1" 'the host'
for tenant in red blue; do
    check "the audit log of $tenant says so" test "$(mvm --json events $tenant --last 50 | jq '[.[] | select(.event == "IsolationViolation")] | length')" -ge 2
done
for i in "$red1" "$blue1"; do mvm --quiet instance sleep "$i"; mvm --quiet instance wake "$i"; done
equal 'and the next wake closes it' "$(mvm --json net verify --deep | jq '.findings | length')" 0

kill "$outer" "$inner" "$server"
mvm tenant destroy red --force; mvm tenant destroy blue --force
clean

source /usr/local/lib/mvm-e2e/docs.sh
typed networking.md
clean
equal 'the rule for own addresses is as it was' "$(ip rule | head -n 1 | tr -s '\t ' ' ')" '0: from all lookup local'
