# tier: ci
# minutes: 4
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
# Files with a value in the clear, but for images, which are older; what is mounted below is no disk.
on_disk() {
    find /var/lib/mvm /run/mvm /var/log /tmp -xdev \( -path /var/lib/mvm/images -o -path /var/lib/mvm/kernels -o -path /tmp/probe \) -prune -o \
        -type f ! -name 'rootfs*' ! -name 'vmlinux*' ! -name 'initrd*' ! -name 'firecracker*' -exec grep -laF -e canary- -e "${KEY:-canary-}" {} + || true
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
mkdir -p /run/reader; cd /run/reader
typed secrets.md >/run/typed.log || { cat /run/typed.log; exit 1; }
echo 'ok: every line of secrets.md was typed'
cd /
all=$(mvm --json instance list acme/all | jq -r '.[0].instance')
some=$(mvm --json instance list acme/some | jq -r '.[0].instance')

say 'what is no flat object of strings is refused by its key'
bad() {
    printf '%s' "$1" >/run/bad.json
    refused 6 mvm tenant secrets set acme --from-file /run/bad.json
    case "$REFUSAL" in *canary*) fail "a value is quoted: $REFUSAL" ;; *"$2"*) ;; *) fail "not named: $REFUSAL" ;; esac
}
bad '{"a": "canary", "a": "canary"}' 'key a is there twice'
bad '{"a": ["canary"]}' 'value of a is a list'
bad '{"a": "canary"' 'line 1'
refused 3 mvm tenant secrets set acme --from-file /run/absent.json
give 1
mvm --quiet --dry-run tenant secrets set acme --from-file /run/source.json
equal 'a rehearsal and refusals change nothing' "$(epoch)" 3
mvm --quiet tenant secrets set acme --from-file - </run/source.json
refused 6 mvm tenant secrets rotate acme

say 'in scope only, at once, without a restart'
before=$(pid_of "$all")
mvm --quiet instance warm "$some"
mvm --json tenant secrets rotate acme --live --from-file /run/source.json >/run/live
equal 'who got them' "$(jq -r '.changes[].instance' /run/live)" "$all"
equal 'who gets them later' "$(jq -r '.deferrals[].instance' /run/live)" "$some"
equal 'the running guest has the new ones' "$(sees "$all")" canary-mail-1
equal 'its VMM is the same' "$(pid_of "$all")" "$before"
equal 'its worker is told' "$(guest "$all" cat /run/mvm/secrets-epoch)" "$(epoch)"
check 'nobody writes there' test "$(guest "$all" sh -c 'echo x >/run/secrets/x 2>/dev/null; echo $?')" != 0
check 'the drive is not mounted' test -z "$(guest "$all" sh -c 'grep mvm-mount /proc/mounts || true')"
mvm --quiet instance wake "$some"
equal 'the warm one got them as it woke' "$(sees "$some" mail/)" canary-mail-1
equal 'what is not its scope is nowhere in its guest' "$(guest "$some" sh -c 'grep -rl canary-api /run /etc /tmp /var 2>/dev/null | wc -l; dd if=/dev/vdc bs=1M 2>/dev/null | grep -c canary-api' | tr '\n' ' ')" '0 0 '
mvm --quiet tenant create other
mvm --quiet pool create other/all --image default --cpus 1 --mem 128
mvm --quiet pool build other/all
stranger=$(mvm --json instance create other/all | jq -r .instance)
mvm --quiet instance start "$stranger"
equal 'the guest of another tenant has none' "$(guest "$stranger" sh -c 'find /run/secrets -type f | wc -l; cat /dev/vd? | grep -c canary' | tr '\n' ' ')" '0 0 '
mvm --quiet tenant destroy other --force
hidden 'running'
equal 'the sealed file is root'"'"'s own' "$(stat -c '%a %u' /var/lib/mvm/tenants/acme/secrets.json)" '600 0'
drive=/run/mvm/ram/${all##*/}/secrets.ext2
equal 'the drive is the VMM'"'"'s own, on a tmpfs' "$(stat -f -c %T "$drive") $(stat -c %a "$drive") $(stat -c %u "$drive")" "tmpfs 400 $(ps -o uid= -p "$(pid_of "$all" | paste -sd,)" | sort -n | tail -1 | tr -d ' ')"

say 'another key, killed at any moment, and a live rotation too'
mvm --quiet instance sleep "$some"
hidden 'sleeping'
for pause in 0.15 0.4 0.7; do
    mvm tenant key rotate acme >/dev/null 2>&1 & pid=$!
    sleep "$pause"; kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true
    equal "the sealed secrets open ($(ls /var/lib/mvm/keys | tr '\n' ' '))" "$(mvm --json tenant secrets list acme | jq '.keys | length')" 3
done
give 2
mvm --quiet tenant secrets set acme --from-file /run/source.json
old=$(sha256sum </var/lib/mvm/keys/acme.key)
mvm --quiet tenant key rotate acme
check 'the key is another one' test "$old" != "$(sha256sum </var/lib/mvm/keys/acme.key)"
equal 'no second key and nothing staged is left' "$(ls /var/lib/mvm/keys | tr '\n' ' ')$(ls /var/lib/mvm/tenants/acme | grep '^secrets')" 'acme.key secrets.json'
mvm --quiet instance wake "$some"
equal 'the snapshot wakes with the newest' "$(sees "$some" mail/)" canary-mail-2
for pause in 0.5; do
    give "killed-$pause"
    mvm tenant secrets rotate acme --live >/dev/null 2>&1 & pid=$!
    sleep "$pause"; kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true
    told=$(mvm --json instance list acme | jq -r '[.[].secrets_epoch] | min')
    least=$(for i in "$all" "$some"; do guest "$i" cat /run/mvm/secrets-epoch; done | sort -n | head -1)
    check "no guest has older ones than its record says ($told, $least)" test "$least" -ge "$told"
done
give 3
mvm --quiet tenant secrets rotate acme --live
equal 'both have the newest' "$(sees "$all") $(sees "$some" mail/)" 'canary-mail-3 canary-mail-3'
hidden 'at the end'
equal 'what happened is told' "$(mvm --json events acme --last 200 | jq -r '[.[].event | select(startswith("Secrets") or startswith("Key"))] | unique | join(" ")')" 'KeyRotated SecretsDelivered SecretsRotated SecretsSet'

say 'nothing is left'
mvm --quiet tenant destroy acme --force
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
check 'it warns' grep -q 'mvm: warning: tenant plain has no key' /run/warning
MVM_PRODUCTION=1 refused 4 mvm tenant secrets set plain --from-file /run/source.json
mvm --quiet tenant destroy plain --force
check 'no value anywhere' test -z "$(on_disk)"
clean
