# tier: ci
# minutes: 6
# Between tenants nothing passes, proven by packets; within one everything works.
source /usr/local/lib/mvm-e2e/prelude.sh

say 'two tenants, three guests, and a world outside'
world_outside
red1=$(one_instance red workers)
red2=$(mvm --json instance create red/workers | jq -r .instance)
blue1=$(one_instance blue workers)
for i in "$red1" "$red2" "$blue1"; do mvm --quiet instance start "$i"; done
where() { mvm --json instance list "${1%/*}" | jq -r --arg i "$1" '.[] | select(.instance == $i) | .address'; }
r1=$(where "$red1"); r2=$(where "$red2"); b1=$(where "$blue1")
echo "red $r1 $r2, blue $b1"
equal 'net verify finds nothing' "$(mvm --json net verify | jq '.findings | length')" 0

say 'guests of one tenant talk, egress works'
check 'red1 reaches red2' guest "$red1" ping -c 1 -W 5 "$r2"
check 'red1 reaches the world' guest "$red1" ping -c 1 -W 5 203.0.113.1

# What comes out at a guest's port while commands run elsewhere, from `watch PORT` to `heard ADDRESS`, which
# ends once a packet of the host to that address is there: whatever came before it is there too.
tap_of() { ip -o link | grep -oE "tn$(mvm --json tenant info "${1%%/*}" | jq .network.tenant_net_id)i[0-9]+" | sort -u | head -n "${2:-1}" | tail -n 1; }
blue_tap=$(tap_of "$blue1"); red2_tap=$(tap_of "$red1" 2)
seen() { tcpdump -nn -r /tmp/seen.pcap "$1" 2>/dev/null | wc -l; }
watch() {
    tcpdump -Z root -i "$1" -nn -U --immediate-mode -w /tmp/seen.pcap 2>/tmp/tcpdump.log & dump=$!
    within 60 grep -q 'listening on' /tmp/tcpdump.log || fail "tcpdump does not listen: $(cat /tmp/tcpdump.log)"
}
heard() {
    # Without nft rules the answer does not come back: the host is closed.
    ping -c 1 -W 1 "$1" >/dev/null || true
    is_there() { [ "$(seen "icmp and dst $1")" -ge 1 ]; }
    within 20 is_there "$1" || fail "what comes out at the port of $1 is not seen"
    kill -INT "$dump"; wait "$dump" || true
}

say 'nothing passes between tenants'
attempts() {
    local pids=() pid
    watch "$blue_tap"
    guest "$red1" ping -c 3 -W 1 "$b1" >/dev/null 2>&1 & pids+=($!)
    guest "$red1" nc -w 2 "$b1" 22 >/dev/null 2>&1 & pids+=($!)
    guest "$red1" arping -c 3 -w 3 -I eth0 "$b1" >/dev/null 2>&1 & pids+=($!)
    guest "$red1" sh -c "echo x | nc -u -w 1 $b1 53; false" >/dev/null 2>&1 & pids+=($!)
    for pid in "${pids[@]}"; do wait "$pid" && fail 'something got through'; done
    heard "$b1"
    for what in icmp tcp udp arp; do
        equal "$what: packets at the other tenant's port" "$(seen "$what and src $r1")" 0
    done
}
attempts

say "the host's ports are closed to guests"
python3 -m http.server 8099 >/dev/null 2>&1 & server=$!
within 10 nc -z 127.0.0.1 8099 || fail 'the server does not listen'
guest "$red2" sh -c 'setsid httpd -p 80 -h /run </dev/null >/dev/null 2>&1'
equal 'of a neighbour and the host, in all its addresses, only the neighbour is open' \
    "$(opens "$red1" "$r2:80" {"${r1%.*}.1","${b1%.*}.1",198.51.100.1}:{22,8099})" "$r2:80"
kill "$server"
guest "$red1" ping -c 1 -W 1 169.254.169.254 && fail 'the metadata address answers'
echo 'ok: 169.254.169.254 is closed'

say 'a guest cannot speak for others'
spoofed() {
    watch "$red2_tap"
    guest "$red1" sh -c "$3" >/dev/null 2>&1 || true
    heard "$r2"
    equal "$1: packets at the neighbour's port" "$(seen "$2")" 0
}
spoofed 'a false address' 'src 10.240.77.7' \
    "ip addr add 10.240.77.7/32 dev eth0; ping -c 3 -W 1 -I 10.240.77.7 $r2; ip addr del 10.240.77.7/32 dev eth0"
spoofed 'a false ARP answer' "arp and host ${r1%.*}.1 and ether src $(guest "$red1" cat /sys/class/net/eth0/address)" \
    "ip addr add ${r1%.*}.1/32 dev eth0; arping -c 3 -w 3 -U -I eth0 -s ${r1%.*}.1 $r2; ip addr del ${r1%.*}.1/32 dev eth0"
mac=$(guest "$red1" cat /sys/class/net/eth0/address)
spoofed 'a false MAC' 'ether src 02:00:00:00:be:ef' \
    "ip link set eth0 down; ip link set eth0 address 02:00:00:00:be:ef; ip link set eth0 up; ip route add default via ${r1%.*}.1; ping -c 3 -W 1 $r2"
guest "$red1" sh -c "ip link set eth0 down; ip link set eth0 address $mac; ip link set eth0 up; ip route add default via ${r1%.*}.1"
check 'with its own name it is heard again' guest "$red1" ping -c 1 -W 5 "$r2"

say 'without any nft rule there is still no path between tenants'
nft flush ruleset
attempts
mvm net verify && fail 'net verify did not notice'
mvm instance warm "$red2"; mvm instance wake "$red2"
mvm instance stop "$red2"; mvm instance start "$red2"
equal 'the next start puts the rules back' "$(mvm --json net verify | jq '.findings | length')" 0
equal 'the audit log says so' "$(mvm --json events red --last 100 | jq '[.[] | select(.event == "FirewallRepaired")] | length')" 1

mvm tenant destroy red --force; mvm tenant destroy blue --force
clean
