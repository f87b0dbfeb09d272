# tier: ci
# minutes: 5
# A tenant's secrets: sealed here, a drive there, new ones at the next wake or at once, gone at the end.
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/docs.sh

# The tenant's source; the number goes into every value.
give() {
    jq -n --arg n "$1" '{"mail.token": "canary-mail-\($n)", "mail_user": "canary-user-\($n)", "api": "canary-api-\($n)"}' >/run/source.json
}
sees() { guest "$1" cat "/run/secrets/${2:-}secrets.json" | jq -r '."mail.token"'; }
epoch() { mvm --json tenant secrets list acme | jq .epoch; }
pid_of() { cat "/sys/fs/cgroup/mvm/${1##*/}/vmm/cgroup.procs"; }
HEXADECIMAL=$(printf canary- | od -An -tx1 | tr -d ' \n')
# Files with a value in the clear, but for images, which are older; what is mounted below is no disk.
on_disk() {
    find /var/lib/mvm /run/mvm /var/log /tmp -xdev \( -path /var/lib/mvm/images -o -path /var/lib/mvm/kernels -o -path /tmp/probe \) -prune -o \
        -type f ! -name 'rootfs*' ! -name 'vmlinux*' ! -name 'initrd*' ! -name 'firecracker*' -exec grep -laF -e canary- -e "$HEXADECIMAL" -e "${KEY:-canary-}" {} + || true
}
# No value in the clear where it could stay or be seen.
hidden() {
    local found
    sync
    found=$(on_disk)
    [ -z "$found" ] || fail "a value lies in the clear in $found"
    mkdir -p /tmp/probe
    mvm --json events acme --last 200 >/tmp/probe/events
    ps -eo args >/tmp/probe/ps
    mvm instance logs "$all" >/tmp/probe/logs 2>&1
    for pid in $(ps -eo pid=,comm= | awk '/firecracker|jailer|mvm-shim/ { print $1 }'); do tr '\0' '\n' <"/proc/$pid/environ"; done >/tmp/probe/environ
    mvm --json tenant info acme >/tmp/probe/info
    mvm --json tenant secrets list acme >/tmp/probe/list
    check "no value in the clear ($1)" test -z "$(grep -laF -e canary- -e "${KEY:-canary-}" /tmp/probe/* || true)"
}

say 'what the document says'
stranger() {
    mvm --quiet tenant create other
    mvm --quiet pool create other/all --image default --cpus 1 --mem 128
    mvm --quiet pool build other/all
    mvm --json instance create other/all | jq -r .instance >/run/stranger
    mvm --quiet instance start "$(cat /run/stranger)"
}
stranger & neighbour=$!
mkdir -p /run/reader; cd /run/reader
typed secrets.md >/run/typed.log || { cat /run/typed.log; exit 1; }
echo 'ok: every line of secrets.md was typed'
cd /
wait "$neighbour"
mvm --json instance list acme >/run/instances
all=$(jq -r '.[].instance | select(startswith("acme/all/"))' /run/instances)
some=$(jq -r '.[].instance | select(startswith("acme/some/"))' /run/instances)

say 'what is no flat object of strings is refused by its key'
bad() {
    printf '%s' "$1" >/run/bad.json
    refused 6 mvm tenant secrets set acme --from-file /run/bad.json
    case "$REFUSAL" in *canary*) fail "a value is quoted: $REFUSAL" ;; *"$2"*) ;; *) fail "not named: $REFUSAL" ;; esac
}
bad '{"a": "canary", "a": "canary"}' 'key a is there twice'
bad '{"a": ["canary"]}' 'value of a is a list'
refused 3 mvm tenant secrets set acme --from-file /run/absent.json
give 1
mvm --quiet --dry-run tenant secrets set acme --from-file /run/source.json
equal 'a rehearsal and refusals change nothing' "$(epoch)" 6
mvm --quiet tenant secrets set acme --from-file - </run/source.json
refused 6 mvm tenant secrets rotate acme

say 'at once, without a restart, and in scope only'
before=$(pid_of "$all")
mvm --json tenant secrets rotate acme --live --from-file /run/source.json >/run/live
equal 'who got them' "$(jq -r '.changes[].instance' /run/live | sort | tr '\n' ' ')" "$all $some "
equal 'the VMM is the same' "$(pid_of "$all")" "$before"
equal 'the guest has them, its worker is told, nobody writes there, no drive is mounted' "$(guest "$all" sh -c '
    grep -o canary-mail-1 /run/secrets/secrets.json; cat /run/mvm/secrets-epoch
    (echo x >/run/secrets/x) 2>/dev/null; echo $?; grep -c mvm-mount /proc/mounts' | tr '\n' ' ')" 'canary-mail-1 8 1 0 '
equal 'its scope, and what is not its scope is nowhere in the other guest' "$(guest "$some" sh -c '
    grep -o canary-mail-1 /run/secrets/mail/secrets.json
    grep -rl canary-api /run /etc /tmp /var 2>/dev/null | wc -l; cat /dev/vd? | grep -c canary-api' | tr '\n' ' ')" 'canary-mail-1 0 0 '
equal 'the guest of another tenant has none' "$(guest "$(cat /run/stranger)" sh -c 'find /run/secrets -type f | wc -l; cat /dev/vd? | grep -c canary' | tr '\n' ' ')" '0 0 '
hidden 'running'
equal 'the sealed file is root'"'"'s own' "$(stat -c '%a %u' /var/lib/mvm/tenants/acme/secrets.json)" '600 0'
drive=/run/mvm/ram/${all##*/}/secrets.ext2
equal 'the drive is the VMM'"'"'s own, on a tmpfs' "$(stat -f -c %T "$drive") $(stat -c %a "$drive") $(stat -c %u "$drive")" "tmpfs 400 $(ps -o uid= -p "$(pid_of "$all" | paste -sd,)" | sort -n | tail -1 | tr -d ' ')"

say 'another key, killed at any moment, and a live rotation too'
mvm --quiet instance sleep "$some"
hidden 'sleeping'
old=$(sha256sum </var/lib/mvm/keys/acme.key)
next=/var/lib/mvm/keys/acme.next.key
for pause in 0 0.05 0.1; do
    mvm tenant key rotate acme >/dev/null 2>&1 & pid=$!
    # Between the first act, a second key, and the last, which takes it away.
    until [ -e "$next" ]; do kill -0 "$pid" || fail 'there never was a second key'; done
    sleep "$pause"; kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true
    [ "$pause" != 0 ] || check 'it was killed between its first act and its last' test -e "$next"
    equal "the sealed secrets open ($(ls /var/lib/mvm/keys | tr '\n' ' '))" "$(mvm --json tenant secrets list acme | jq '.keys | length')" 3
done
mvm --quiet tenant key rotate acme
check 'the key is another one' test "$old" != "$(sha256sum </var/lib/mvm/keys/acme.key)"
give killed
mvm tenant secrets rotate acme --live >/dev/null 2>&1 & pid=$!
sleep 0.6; kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true
told=$(mvm --json instance list acme | jq -r --arg i "$all" '.[] | select(.instance == $i) | .secrets_epoch')
check "the guest has none older than its record says ($told)" test "$(guest "$all" cat /run/mvm/secrets-epoch)" -ge "$told"
give 2
mvm --json tenant secrets rotate acme --live >/run/live
equal 'who gets them later' "$(jq -r '.deferrals[].instance' /run/live)" "$some"
equal 'no second key and nothing staged is left' "$(ls /var/lib/mvm/keys /var/lib/mvm/tenants/acme | grep -E 'acme.*key|^secrets' | tr '\n' ' ')" 'acme.key secrets.json '
mvm --quiet instance wake "$some"
equal 'the guest and the woken snapshot have the newest' "$(sees "$all") $(sees "$some" mail/)" 'canary-mail-2 canary-mail-2'
equal 'what happened is told' "$(mvm --json events acme --last 200 | jq -r '[.[].event | select(startswith("Secrets") or startswith("Key"))] | unique | join(" ")')" 'KeyCreated KeyRotated SecretsDelivered SecretsRotated SecretsSet'

say 'nothing is left'
mvm --quiet tenant destroy acme --force & mvm --quiet tenant destroy other --force; wait $!
check 'no value anywhere' test -z "$(on_disk)"

say 'a key that is brought along'
KEY=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export MVM_TENANT_KEY_ACME=$KEY
mvm --quiet tenant create acme
mvm --quiet tenant secrets set acme --from-file /run/source.json
equal 'it opens what it sealed' "$(mvm --json tenant secrets list acme | jq '.keys | length')" 3
equal 'it is kept nowhere' "$(find /var/lib/mvm/keys -type f)$(on_disk)" ''
refused 4 mvm tenant key rotate acme
refused 6 env MVM_PRODUCTION=1 mvm tenant list
refused 3 env -u MVM_TENANT_KEY_ACME mvm tenant secrets list acme
mvm --quiet tenant destroy acme --force
unset MVM_TENANT_KEY_ACME

say 'without a key: a warning, and nothing in production'
mvm --quiet tenant create plain --no-key
mvm tenant secrets set plain --from-file /run/source.json 2>/run/warning
equal 'in the clear, and the search finds it' "$(on_disk)" /var/lib/mvm/tenants/plain/secrets.json
check 'it warns' grep -q 'mvm: warning: tenant plain has no key' /run/warning
MVM_PRODUCTION=1 refused 4 mvm tenant secrets set plain --from-file /run/source.json
mvm --quiet tenant destroy plain --force
check 'no value anywhere' test -z "$(on_disk)"
clean
