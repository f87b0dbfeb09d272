# tier: ci
# minutes: 5
# Dev mode: from none, running, sleeping and stopped; a start that is killed goes on; nothing else is touched.
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

say 'nothing is there'
equal 'status says so' "$(dev)" none
mvm --quiet stop
refused 125 mvm ssh -- true
echo 'cpu = 1' >/run/wrong.toml; refused 6 mvm start --config /run/wrong.toml
case "$REFUSAL" in *'line 1, column 1'*'did you mean cpus?'*) ;; *) fail "no place: $REFUSAL" ;; esac
equal 'a dry run says the way' "$(mvm --dry-run dev)" 'would do make the dev VM, start the dev VM, enter the dev VM'

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

say 'running: twice is once'
equal 'nothing is done' "$(mvm --json dev | jq -c .steps)" '[]'
refused 4 mvm start --memory 160
status=0; mvm ssh -- 'exit 7' || status=$?
equal 'the exit code is passed on' "$status" 7
inside 'echo mine >/mnt/data/own; sync'
check 'nothing is written back' test ! -e /data/own

say 'sleeping'
id=$(mvm --json status | jq -r .dev.instance)
mvm --quiet instance sleep "$id"
equal 'dev wakes it' "$(mvm --json dev | jq -c .steps)" '["wake"]'

say 'stopped, and another size'
mvm --quiet stop; mvm --quiet stop; equal 'it is stopped' "$(dev)" Stopped
mvm --quiet start --memory 160
equal 'it has its volume' "$(inside cat /mnt/data/own)" mine

say 'a VM of its own for one command'
status=0; said=$(mvm --quiet run $small -- sh -c 'hostname -i; exit 9') || status=$?
equal 'its exit code' "$status" 9
case "$said" in *172.16.1.*) echo 'ok: in a network of its own' ;; *) fail "where was it? $said" ;; esac
equal 'it is gone' "$(mvm --json instance list mvm-run | jq length)" 0

say 'destroy'
refused 2 mvm destroy </dev/null
mvm --quiet destroy --force; mvm --quiet destroy --force
equal 'nothing is there' "$(dev)" none
clean
others >/run/others.after
check 'nothing of others was touched' diff /run/others.before /run/others.after

