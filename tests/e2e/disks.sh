# tier: ci
# minutes: 6
# Data disks: encrypted, grown, kept, given away, wiped; another key; a full disk; kills in between.
source /usr/local/lib/mvm-e2e/prelude.sh

id=$(one_instance acme workers --data-disk 32 --disk-iops 4000 --disk-mbps 50 --net-mbps 20)
volumes=/var/lib/mvm/tenants/acme/pools/workers/instances
file() { echo "$volumes/${1##*/}/volumes/data.img"; }
is_open() { test -b "/dev/mapper/mvm-${1##*/}"; }
is_luks() { [ "$(head -c 4 "$1")" = LUKS ] && cryptsetup isLuks --type luks2 "$1"; }
slots() { cryptsetup luksDump "$1" | grep -cE '^  [0-9]+: luks2'; }

say 'an encrypted disk'
mvm instance start "$id"
check 'the file is LUKS2' is_luks "$(file "$id")"
check 'aes-xts-plain64 with 512 bit' sh -c "cryptsetup luksDump $(file "$id") | grep -q 'cipher: aes-xts-plain64' && cryptsetup luksDump $(file "$id") | grep -q 'Cipher key: 512 bits'"
check 'its device is open while the guest runs' is_open "$id"
canary="canary-$(head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n')"
guest "$id" sh -c "for i in \$(seq 2000); do echo $canary; done >/data/canary; sync"
check 'the guest wrote it' test "$(guest "$id" sh -c "grep -c $canary /data/canary")" = 2000
sync
check 'and it is nowhere on the disk in the clear' sh -c "! grep -rqa $canary /var/lib/mvm"

say 'a larger disk'
small=$(guest "$id" sh -c 'df -k /data | tail -1' | awk '{print $2}')
mvm instance update "$id" --data-disk 96
large=$(guest "$id" sh -c 'df -k /data | tail -1' | awk '{print $2}')
check "the running guest has it ($small, $large KiB)" test "$large" -gt $((small + 40000))
refused 6 mvm instance update "$id" --data-disk 64
refused 5 mvm instance update "$id" --data-disk 200000
equal 'what was there is there' "$(guest "$id" sh -c "grep -c $canary /data/canary")" 2000

say 'another key, with one that runs and one that sleeps'
other=$(mvm --json instance create acme/workers | jq -r .instance)
mvm instance start "$other"; guest "$other" sh -c 'echo kept >/data/file'
mvm instance sleep "$other"
check 'the device of one that sleeps is closed' test ! -e "/dev/mapper/mvm-${other##*/}"
before=$(sha256sum /var/lib/mvm/keys/acme.key)
mvm tenant key rotate acme & rotation=$!
within 30 test -e /var/lib/mvm/keys/acme.next.key || true
kill -KILL "$rotation" 2>/dev/null || true; wait "$rotation" || true
mvm tenant key rotate acme
check 'the key is another one' test "$before" != "$(sha256sum /var/lib/mvm/keys/acme.key)"
equal 'no second key is left' "$(find /var/lib/mvm/keys -name '*.next*' | wc -l)" 0
equal 'one key slot' "$(slots "$(file "$id")") $(slots "$(file "$other")")" '1 1'
mvm instance wake "$other"
equal 'the sleeper has its data' "$(guest "$other" cat /data/file)" kept
mvm instance stop "$id"; check 'closed after a stop' test ! -e "/dev/mapper/mvm-${id##*/}"

say 'killed in the middle of a start'
mvm instance start "$id" & start=$!
within 30 is_open "$id" || true
kill -KILL "$start" 2>/dev/null || true; wait "$start" || true
mvm instance start "$id" || equal 'it had started' "$(state "$id")" Running
equal 'its data is there' "$(guest "$id" sh -c "grep -c $canary /data/canary")" 2000

say 'a full disk'
free=$(mvm --json node disk | jq .available_mib)
check 'node disk knows the volumes' test "$(mvm --json node disk | jq .used_bytes.volumes)" -gt 8000000
fallocate -l $((free - 60))M /var/lib/mvm/filler
refused 5 mvm instance sleep "$other"
case "$REFUSAL" in *MiB*reserve*) ;; *) fail "no figures: $REFUSAL" ;; esac
equal 'the guest runs on' "$(state "$other") $(guest "$other" cat /data/file)" 'Running kept'
refused 5 mvm instance update "$other" --data-disk 160
rm /var/lib/mvm/filler

say 'kept, given away, wiped'
mvm instance destroy "$other" --keep-volumes --force
name=${other##*/}
equal 'it is kept' "$(mvm --json volume list | jq -r '.[].volume')" "$name"
check 'still encrypted, with a key of its own' test -s "/var/lib/mvm/keys/volumes/$name.key"
mvm tenant create bolt
mvm pool create bolt/plain --image default --cpus 1 --mem 128; mvm pool build bolt/plain
heir=$(mvm --json instance create bolt/plain --volume "$name" | jq -r .instance)
refused 3 mvm instance create bolt/plain --volume "$name"
mvm instance stop "$id"; mvm instance start "$heir"
equal 'its new owner has the data' "$(guest "$heir" cat /data/file)" kept
ln "$(file "$id")" /var/lib/mvm/witness
mvm instance destroy "$id" --wipe-volumes --force
check 'no key slot is left of a wiped one' sh -c '! cryptsetup isLuks /var/lib/mvm/witness'
rm /var/lib/mvm/witness
mvm instance destroy "$heir" --keep-volumes --force
mvm volume remove "${heir##*/}" --wipe --force
equal 'no volume is kept' "$(mvm --json volume list | jq length)" 0
equal 'the audit log' "$(mvm --json events acme --last 100 | jq -r '[.[].event | select(startswith("Volume") or startswith("Key"))] | unique | join(" ")')" \
    'KeyCreated KeyRotated VolumeCreated VolumeGrowing VolumeGrown VolumeKept VolumeWiped'
mvm tenant destroy acme --force; mvm tenant destroy bolt --force
clean
