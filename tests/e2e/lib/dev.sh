# What dev and dev-long begin and end with. Sourced by both.
source /usr/local/lib/mvm-e2e/prelude.sh

dev() { mvm --json status | jq -r '.dev.state // "none"'; }
inside() { mvm ssh -- "$@"; }
small='--cpus 1 --memory 128'
# What is not ours, as it was: rules, tables, addresses, routes, settings of the kernel, /etc.
others() {
    nft list ruleset | awk '/^table (inet|bridge) mvm /{skip=1} !skip{print} /^}/{skip=0}'
    ip -br addr | grep -vE '^(br-tenant|tn)[0-9]'; ip route | grep -vE 'br-tenant-'
    ip rule | grep -vE 'br-tenant-'
    sysctl -a 2>/dev/null | grep -E '^(net\.(ipv4\.(ip_forward|conf\.(all|default|lo))|bridge|core)|kernel\.(core|panic))' | grep -vE 'br-tenant|netdev_rss_key'
    find /etc -path /etc/mvm -prune -o -type f -printf '%p %s %T@\n' | sort
}
others >/run/others.before

# A dev VM with a volume, by a start that goes on after one that was killed.
made() {
    say 'a start that is killed in the middle goes on'
    mkdir -p /data/sub; echo kept >/data/sub/file
    mvm --quiet start $small --volume /data:/mnt/data:32M >/dev/null 2>&1 & starting=$!
    within 40 bash -c 'mvm --json status | jq -e ".dev.state != null" >/dev/null' || true
    kill -KILL "$starting" 2>/dev/null || true; wait "$starting" 2>/dev/null || true
    mvm start $small --volume /data:/mnt/data:32M
    equal 'it runs' "$(dev)" Running
    equal 'where it is said to be' "$(mvm --json status | jq -r .dev.address)" 172.16.0.2
    check 'its network is a /30' inside 'ip addr show eth0 | grep -q 172.16.0.2/30'
    equal 'the gateway is .1' "$(inside 'ip route | grep default' | cut -d' ' -f3)" 172.16.0.1
    equal 'the volume was filled' "$(inside cat /mnt/data/sub/file)" kept
}

# Nothing is left of it, and what is not ours is as it was.
destroyed() {
    say 'destroy'
    refused 2 mvm destroy </dev/null
    mvm --quiet destroy --force; mvm --quiet destroy --force
    equal 'nothing is there' "$(dev)" none
    clean
    others >/run/others.after
    check 'nothing of others was touched' diff /run/others.before /run/others.after
}
