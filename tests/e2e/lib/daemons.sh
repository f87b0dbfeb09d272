# Sourced by `daemons` and `daemons-long`, which say how often ($KILLS) both are killed.
pool=acme/workers
desire() { # running
    cat >/etc/mvm/desired.new <<JSON
{"schema_version": 1, "node_id": "local", "tenants": [{
  "tenant_id": "acme", "network": {"tenant_net_id": 3, "ipv4_subnet": "10.240.3.0/24"},
  "quotas": {"max_vcpus": 8, "max_mem_mib": 2048, "max_running": 4, "max_warm": 4, "max_pools": 2,
             "max_instances_per_pool": 8, "max_disk_gib": 10},
  "pools": [{"pool_id": "workers", "image": "default", "critical": true,
    "instance_resources": {"vcpus": 1, "mem_mib": 128, "data_disk_mib": 64},
    "desired_counts": {"running": $1, "warm": 0, "sleeping": 0},
    "runtime_policy": {"min_running_seconds": 0, "min_warm_seconds": 0, "drain_timeout_seconds": 5}
  }]}]}
JSON
    chmod 644 /etc/mvm/desired.new; mv /etc/mvm/desired.new /etc/mvm/desired.json
}
are() { [ "$(states $pool 2>/dev/null)" = "$1" ]; }
as() { local user=$1; shift; setpriv --reuid "$user" --regid mvm --clear-groups "$@"; }
log() { journalctl --no-pager -o cat -u mvm-hostd -u mvm-agentd | tail -n 60; }
vmms() { pgrep -x firecracker | sort | xargs; }

say 'units'
cp /usr/local/share/mvm/systemd/mvm-*.service /etc/systemd/system/
install -D -m 644 /usr/local/share/mvm/systemd/mvm.sysusers /etc/sysusers.d/mvm.conf
ln -sf mvm /usr/local/bin/mvm-agentd
systemd-sysusers
check 'systemd finds nothing wrong with them' systemd-analyze verify /etc/systemd/system/mvm-{hostd,agentd}.service
symbols() { grep -a -o -E '_ZN[0-9]+(quinn|rustls|hyper|reqwest|ureq)[0-9A-Za-z_]+|sqlite3_open_v2' "/usr/local/bin/$1" | sort -u | wc -l; }
equal 'what serves the machine has no code for networks and no database' "$(symbols mvm-hostd)" 0
check 'which its client has' test "$(symbols mvm)" -gt 10

say 'what root made before is taken along'
mkdir -p /etc/mvm
other=$(one_instance beta w --data-disk 64)
mvm --quiet instance start "$other"
desire 1
echo "MVM_AGENTD_FLAGS='--desired /etc/mvm/desired.json --interval-secs 3 --tick-secs 1'" >/etc/mvm/agentd.env
systemctl daemon-reload
systemctl start mvm-hostd mvm-agentd
check 'the daemon answers as soon as it counts as started' as mvm mvm --quiet node info
within 90 are Running || fail "no instance runs: $(log)"
one=$(mvm --json instance list $pool | jq -r '.[0].instance')
equal 'the guest answers' "$(guest "$one" echo here)" here
agent=$(systemctl show -P MainPID mvm-agentd)
equal 'the agent is nobody with no capability' \
    "$(ps -o user= -p "$agent") $(awk '/^Cap(Eff|Prm|Bnd|Amb)/ {print $2}' "/proc/$agent/status" | sort -u)" 'mvm 0000000000000000'
equal 'the store is its own, keys are root'"'"'s' "$(cd /var/lib/mvm && stat -c %U:%a store/state.db keys jails ledger tenants/acme tenants/acme/pools | xargs)" \
    'mvm:600 root:700 root:700 root:700 root:1770 root:750'

say 'root beside them'
mvm --quiet tenant create gamma
mvm --quiet instance stop "$other"; mvm --quiet instance start "$other"
equal 'what root writes is the agent'"'"'s' "$(stat -c %U /var/lib/mvm/tenants/{gamma,beta}/{tenant.json,audit.log} | sort -u)" mvm
mvm --quiet events gamma --verify
as mvm mvm --quiet instance sleep "$other"
equal 'it sleeps, as the agent'"'"'s user asked' "$(state "$other")" Sleeping
as mvm mvm --quiet instance wake "$other"
equal 'the agent'"'"'s user may run every command but those with secrets' "$(as mvm mvm instance exec "$one" -- echo through)" through
echo '{"a": "b"}' >/run/s.json; chmod 644 /run/s.json
refused 7 as mvm mvm tenant secrets set acme --from-file /run/s.json
mvm --quiet tenant destroy gamma --force

say 'restarted, upgraded'
before=$(vmms)
cp /usr/local/bin/mvm-hostd /run/hostd.new; mv /run/hostd.new /usr/local/bin/mvm-hostd
systemctl restart mvm-hostd mvm-agentd
equal 'the guests go on' "$(guest "$one" echo on) $(guest "$other" echo on) $(vmms)" "on on $before"
desire 2
within 90 are 'Running Running' || fail "the agent does not go on: $(log)"

say 'an agent that was taken over'
facts() { jq -r "[.instance, .uid] | join(\" \")" "/var/lib/mvm/tenants/${1%%/*}/pools/$2/instances/${1##*/}/instance.json"; }
read -r one uid < <(facts "$one" workers); read -r other other_uid < <(facts "$other" w)
spare=$(mvm --json instance create beta/w | jq -r .instance)
mvm --quiet instance start "$spare"
mvm --quiet instance destroy "$spare" --keep-volumes --force
kept=$(mvm --json volume list | jq -r '.[].volume')
other_net=$(jq -r '.network.tenant_net_id' /var/lib/mvm/tenants/beta/tenant.json)
tables=$(nft list tables | sort | xargs; ip -br link | wc -l)
as mvm python3 /usr/local/lib/mvm-e2e/hostile.py /run/mvm/hostd.sock "$one" "$other" "$uid" "$other_uid" 3 "$other_net" "$kept"
equal 'tables and devices are as before' "$(nft list tables | sort | xargs; ip -br link | wc -l)" "$tables"
home=/var/lib/mvm/tenants/beta
denied() { ! as mvm "$@" 2>/dev/null || fail "it may: $*"; echo "ok: denied: $*"; }
denied cat /var/lib/mvm/keys/beta.key
denied mv $home/pools $home/mine
denied ln -s /etc $home/pools/fake
denied rm -r "$home/pools/w/instances/${other##*/}/volumes"
denied ls /var/lib/mvm/jails
denied touch /var/lib/mvm/tenants/planted
denied touch /var/lib/mvm/planted
denied rm /var/lib/mvm/state.db
denied rm /run/mvm/hostd.sock
as mvm sh -c "mv $home/audit.log $home/moved && ln -s /etc/shadow $home/audit.log"
shadow=$(sha256sum /etc/shadow; stat -c %U /etc/shadow)
mvm --quiet instance stop "$other" 2>/dev/null; mvm --quiet instance start "$other"
equal 'a link in place of a log is followed by nobody' "$(sha256sum /etc/shadow; stat -c %U /etc/shadow)" "$shadow"
as mvm mv $home/moved $home/audit.log

say 'others'
useradd --no-create-home stranger; useradd --no-create-home --groups mvm member
cat >/run/ask.py <<'PY'
import json, socket, struct, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/mvm/hostd.sock")
data = sys.argv[1].encode(); s.sendall(struct.pack(">I", len(data)) + data)
size = struct.unpack(">I", s.recv(4))[0]; got = b""
while len(got) < size: got += s.recv(size - len(got))
print(json.loads(got).get("Err", {}).get("kind", "done"))
PY
chmod 644 /run/ask.py
member() { setpriv --reuid member --regid member --groups "$(getent group mvm | cut -d: -f3)" python3 /run/ask.py "$1"; }
equal 'a member of the group reaches local only' \
    "$(member '{"hello": {}}') $(member '{"observe_pool": "local/p"}') $(member '{"observe_pool": "acme/workers"}') $(member '{"observe_node": {}}')" \
    'done done permission permission'
printf '%s acme\n' "$(id -u member)" >/etc/mvm/grants; chmod 644 /etc/mvm/grants
equal 'and what root granted' "$(member '{"observe_pool": "acme/workers"}') $(member '{"observe_pool": "beta/w"}')" 'done permission'
chmod 666 /etc/mvm/grants
equal 'by a file that only root writes' "$(member '{"observe_pool": "acme/workers"}')" permission
rm /etc/mvm/grants
! setpriv --reuid stranger --regid stranger --clear-groups python3 /run/ask.py '{"hello": {}}' 2>/dev/null || fail 'a stranger may ask'

say 'killed between what it stored of a base and what it publishes'
mvm --quiet pool create beta/torn --image default --cpus 1 --mem 64
mvm --quiet pool build beta/torn
torn=$(mvm --json instance create beta/torn | jq -r .instance)
hostd=$(systemctl show -P MainPID mvm-hostd)
as mvm mvm --quiet instance start "$torn" & asked=$!
base_is_stored beta/torn "$hostd"
kill -9 "$hostd"
equal 'nothing is published' "$(bases beta/torn | grep -vc partial)" 0
wait "$asked" || fail "it does not start: $(log)"
equal 'who asked goes on when it is back' "$(guest "$torn" echo up)" up
for _ in 1 2; do as mvm mvm --quiet instance stop "$torn"; as mvm mvm --quiet instance start "$torn"; done
equal 'there is one base, and it is used' \
    "$(bases beta/torn | wc -l) $(mvm --json events beta --last 200 --event InstanceStarted | jq -r '[.[] | select(.pool == "torn") | .detail.by] | join(" ")')" '1 boot boot clone'
as mvm mvm --quiet instance stop "$torn"

say 'killed while it scales'
seed=${SEED:-$RANDOM}; echo "seed $seed"; RANDOM=$seed
for round in $(seq "$KILLS"); do
    desire $((RANDOM % 3 + 1))
    sleep "$((RANDOM % 3)).$((RANDOM % 10))"
    for unit in mvm-hostd mvm-agentd; do
        [ $((RANDOM % 3)) = 0 ] || systemctl kill -s KILL $unit 2>/dev/null || true
    done
done
# An older pass may be under way still, on its way to two or to one: its agent goes, and what it began comes to rest.
desire 3
systemctl restart mvm-agentd
at_rest() { mvm --json instance list $pool | jq -e 'map(select(.state == "Running" and (.in_flight | not))) | length == 3' >/dev/null; }
within 120 at_rest || fail "not converged: $(states $pool) $(log)"
equal 'as many VMMs as instances, none twice' "$(vmms | wc -w)" 4
for i in $(mvm --json instance list $pool | jq -r '.[].instance'); do
    equal "$i answers" "$(guest "$i" echo yes)" yes
done
equal 'the one that was there is there' "$(mvm --json instance list $pool | jq --arg i "$one" '[.[] | select(.instance == $i)] | length')" 1
mvm --quiet net verify
desire 0
within 60 are 'Stopped Stopped Stopped' || are 'Ready Ready Ready' || fail "not stopped: $(states $pool)"
systemctl stop mvm-agentd mvm-hostd
mvm --quiet volume remove "$kept" --wipe --force
mvm --quiet tenant destroy acme --force; mvm --quiet tenant destroy beta --force
equal 'nothing is left' "$(leftovers)" ''
equal 'nothing is claimed' "$(find /var/lib/mvm/ledger -type f ! -name 'lock.*' -printf '%f ')" ''
