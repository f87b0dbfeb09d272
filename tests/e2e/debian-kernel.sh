# tier: full
# minutes: 6
# brings: debian
# The default image as the product makes it by itself, with Debian's modular kernel and an initramfs,
# boots, sleeps and wakes; what a guest's root calls to go down takes the VM down.
source /usr/local/lib/mvm-e2e/prelude.sh

mvm --quiet tenant create acme
mvm --quiet pool create acme/workers --image debian --cpus 1 --mem 256 --data-disk 32
mvm --quiet pool build acme/workers
id=$(mvm --json instance create acme/workers | jq -r .instance)
timed() { local what=$1 began; shift; began=$(date +%s%N); "$@"; echo "$what: $((($(date +%s%N) - began) / 1000000)) ms"; }

say 'start'
timed start mvm --quiet instance start "$id"
equal 'it is Running' "$(state "$id")" Running
check "the kernel is Debian's" guest "$id" sh -c 'uname -v | grep -i debian'
guest "$id" sh -c 'cut -d " " -f 1 /proc/modules | tr "\n" " "; free -m; dmesg | grep "Run /init\|mvm-guest:"'
equal 'the root is the image under a layer' "$(guest "$id" awk '$2 == "/" {print $3}' /proc/mounts)" overlay
guest "$id" sh -c 'echo kept >/data/file; echo there >/run/mark'
address=$(guest "$id" ip -4 -o addr show eth0 | awk '{print $4}')
check "the host reaches it at $address" ping -c 1 -W 5 "${address%/*}"

say 'sleep and wake'
timed sleep mvm --quiet instance sleep "$id"
equal 'it is Sleeping' "$(state "$id")" Sleeping
timed wake mvm --quiet instance wake "$id"
equal 'it is the same guest' "$(guest "$id" cat /run/mark)" there
equal 'its data disk' "$(guest "$id" cat /data/file)" kept

stopped() { [ "$(state "$1")" = Stopped ]; }
reason() { mvm --json instance list "${1%/*}" | jq -r '.[0].last_failure.reason'; }
ctrl_alt_del() {
    curl -sf --unix-socket "/var/lib/mvm/jails/firecracker/${1##*/}/root/run/fc.sock" \
        -X PUT http://localhost/actions -d '{"action_type": "SendCtrlAltDel"}'
}
# An order that root gives in the guest, or a key; then the reason that the host sees.
goes_down() {
    local i=$1 order=$2
    say "$order in a guest of ${i%/*}"
    if [ "$order" = ctrl_alt_del ]; then ctrl_alt_del "$i"; else guest "$i" "$order" || true; fi
    within 30 stopped "$i" || fail "$order does not take the guest down: $(mvm instance logs "$i" | tail -n 15)"
    equal 'the reason' "$(reason "$i")" 'the guest shut itself down'
}
for order in reboot halt poweroff ctrl_alt_del; do
    goes_down "$id" "$order"
    [ "$order" = ctrl_alt_del ] || timed start mvm --quiet instance start "$id"
done
mvm --quiet instance destroy "$id" --force
id=$(one_instance acme plain)
timed 'start with the guest kernel of the tests' mvm --quiet instance start "$id"
goes_down "$id" ctrl_alt_del

say 'destroy'
mvm tenant destroy acme --force
clean
