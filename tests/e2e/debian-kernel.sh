# tier: full
# minutes: 6
# images: debian
# The default image as the product makes it by itself, with Debian's modular kernel and an initramfs,
# boots, sleeps and wakes; what a guest's root calls to go down takes the VM down.
source /usr/local/lib/mvm-e2e/prelude.sh

mvm --quiet tenant create acme
mvm --quiet pool create acme/workers --image debian --cpus 1 --mem 256 --data-disk 32
mvm --quiet pool build acme/workers
id=$(mvm --json instance create acme/workers | jq -r .instance)
timed() { local what=$1 began; shift; began=$(date +%s%N); "$@"; echo "$what: $((($(date +%s%N) - began) / 1000000)) ms"; }

say 'start'
timed start mvm instance start "$id"
equal 'it is Running' "$(state "$id")" Running
check "the kernel is Debian's" guest "$id" sh -c 'uname -v | grep -i debian'
guest "$id" sh -c 'cat /proc/cmdline /proc/modules; free -m; dmesg | grep -i "mvm-guest\|Run /\|initramfs\|atkbd\|i8042\|sda\|vda" | head -40'
equal 'the root is the image under a layer' "$(guest "$id" awk '$2 == "/" {print $3}' /proc/mounts)" overlay
equal 'nothing of the initramfs is left' "$(guest "$id" sh -c 'ls -d /modules /modules.list /newroot 2>/dev/null | wc -l')" 0
guest "$id" sh -c 'echo kept >/data/file; echo there >/run/mark'
address=$(guest "$id" ip -4 -o addr show eth0 | awk '{print $4}')
check "the host reaches it at $address" ping -c 1 -W 5 "${address%/*}"

say 'sleep and wake'
timed sleep mvm instance sleep "$id"
equal 'it is Sleeping' "$(state "$id")" Sleeping
timed wake mvm instance wake "$id"
equal 'it is the same guest' "$(guest "$id" cat /run/mark)" there
equal 'its data disk' "$(guest "$id" cat /data/file)" kept

stopped() { [ "$(state "$id")" = Stopped ]; }
for order in TERM USR1 USR2 INT; do
    say "process 1 gets $order"
    guest "$id" kill -"$order" 1 || true
    within 30 stopped || fail "$order does not take the guest down"
    mvm --json instance list acme/workers | jq -c '.[0].last_failure'
    [ "$order" = INT ] || timed start mvm instance start "$id"
done

say 'destroy'
mvm instance destroy "$id" --force
mvm tenant destroy acme --force
clean
