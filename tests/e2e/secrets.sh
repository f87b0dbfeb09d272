# tier: ci
# minutes: 4
# A tenant's secrets: sealed here, a drive there, new ones at the next wake or at once, gone at the end.
source /usr/local/lib/mvm-e2e/prelude.sh

canary() { printf 'canary-%s-%s' "$1" "$2"; }
# Writes the tenant's source; the number goes into every value.
give() {
    jq -n --arg n "$1" '{"mail.token": "canary-mail-\($n)", "mail_user": "canary-user-\($n)", "api": "canary-api-\($n)"}' >/run/source.json
}
sees() { guest "$1" cat "/run/secrets/${2:-}secrets.json" | jq -r '."mail.token"'; }
epoch() { mvm --json tenant secrets list acme | jq .epoch; }
# Files with a value in the clear, but for images, which are older; what is mounted below is no disk.
on_disk() {
    find /var/lib/mvm /run/mvm -xdev \( -path /var/lib/mvm/images -o -path /var/lib/mvm/kernels \) -prune -o \
        -type f ! -name 'rootfs*' ! -name 'vmlinux*' ! -name 'initrd*' ! -name 'firecracker*' -exec grep -laF canary- {} + || true
}
# No value in the clear where it could stay or be seen.
hidden() {
    local found
    found=$(on_disk)
    [ -z "$found" ] || fail "a value lies in the clear in $found"
    mvm --json events acme --last 200 >/tmp/events
    ps -eo args >/tmp/ps
    mvm instance logs "$id" >/tmp/logs 2>&1
    cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' >/tmp/environ
    mvm --json tenant info acme >/tmp/info
    mvm --json tenant secrets list acme >/tmp/list
    check "no value in the clear ($1)" test -z "$(grep -laF canary- /tmp/{events,ps,logs,environ,info,list} /tmp/said 2>/dev/null || true)"
}

say 'what is no flat object of strings is refused by its key'
mvm --quiet tenant create acme
bad() {
    printf '%s' "$1" >/run/bad.json
    refused 6 mvm tenant secrets set acme --from-file /run/bad.json
    case "$REFUSAL" in *canary*) fail "a value is quoted: $REFUSAL" ;; *"$2"*) ;; *) fail "not named: $REFUSAL" ;; esac
}
bad '{"a": "canary", "a": "canary"}' 'key a is there twice'
bad '{"a": {"b": "canary"}}' 'value of a is an object'
bad '{"a": ["canary"]}' 'value of a is a list'
bad '{"a b": "canary"}' 'a b'
bad '{"a": "canary"' 'line 1'
bad "{\"a\": \"$(head -c 262144 /dev/zero | tr '\0' x)\"}" 262144
refused 3 mvm tenant secrets set acme --from-file /run/absent.json
refused 3 mvm tenant secrets set nobody --from-file /run/bad.json
refused 6 mvm tenant secrets rotate acme
equal 'nothing was changed' "$(epoch)" 0

say 'quotas'
mvm --quiet tenant update acme --max-running 7 --max-disk 50
equal 'only the given ones change' "$(mvm --json tenant info acme | jq -c '[.quotas[]]')" '[16,32768,7,4,4,16,50]'
equal 'from what to what is told' "$(mvm --json events acme | jq -c '.[] | select(.event == "TenantUpdated") | .detail')" '{"max_disk_gib":"100 -> 50","max_running":"8 -> 7"}'
refused 2 mvm tenant update acme

say 'set, start, look inside'
give 1
mvm tenant secrets set acme --from-file - </run/source.json >/tmp/said 2>&1
refused 6 mvm tenant secrets rotate acme
mvm --dry-run tenant secrets set acme --from-file /run/source.json >>/tmp/said
equal 'a rehearsal changes nothing' "$(epoch)" 1
equal 'the keys are told' "$(mvm --json tenant secrets list acme | jq -c .keys)" '["api","mail.token","mail_user"]'
id=$(one_instance acme all --min-running-secs 61)
mvm --quiet instance start "$id"
equal 'the guest has them' "$(sees "$id")" "$(canary mail 1)"
equal 'its file is its root'"'"'s' "$(guest "$id" stat -c '%a %u %g' /run/secrets/secrets.json)" '400 0 0'
for option in ro noexec nodev nosuid; do
    check "/run/secrets is mounted $option" guest "$id" sh -c "grep ' /run/secrets tmpfs ' /proc/mounts | grep -qw $option"
done
check 'nobody writes there' test "$(guest "$id" sh -c 'echo x >/run/secrets/x 2>/dev/null; echo $?')" != 0
check 'the drive is not mounted' test -z "$(guest "$id" sh -c 'grep mvm-mount /proc/mounts || true')"
equal 'the guest knows the pool'"'"'s times' "$(guest "$id" cat /etc/mvm-config/config.json | jq -c '.min_runtime_policy | [.[]]')" '[61,30,30,15]'
hidden 'running'
equal 'the sealed file is root'"'"'s own' "$(stat -c %a /var/lib/mvm/tenants/acme/secrets.json)" 600

say 'scopes'
mvm --quiet pool create acme/some --image default --cpus 1 --mem 128 --secret-scope mail --secret-scope api
mvm --quiet pool build acme/some
some=$(mvm --json instance create acme/some | jq -r .instance)
mvm --quiet instance start "$some"
equal 'each scope has its directory' "$(guest "$some" ls /run/secrets | tr '\n' ' ')" 'api mail '
equal 'with its keys only' "$(guest "$some" cat /run/secrets/mail/secrets.json | jq -c keys)" '["mail.token","mail_user"]'
equal 'the other with its own' "$(guest "$some" cat /run/secrets/api/secrets.json | jq -c keys)" '["api"]'

say 'a snapshot with old secrets wakes with new ones'
mvm --quiet instance sleep "$id"
hidden 'sleeping'
give 2
mvm --quiet tenant secrets set acme --from-file /run/source.json
mvm --quiet instance wake "$id"
equal 'the woken guest has the new ones' "$(sees "$id")" "$(canary mail 2)"
equal 'the running one still has the old ones' "$(sees "$some" mail/)" "$(canary mail 1)"

say 'at once'
mvm --quiet instance warm "$some"
give 3
mvm --json tenant secrets rotate acme --live >/tmp/live
equal 'who got them' "$(jq -r '.changes[].instance' /tmp/live)" "$id"
equal 'who gets them later' "$(jq -r '.deferrals[].instance' /tmp/live)" "$some"
equal 'the running guest has the new ones' "$(sees "$id")" "$(canary mail 3)"
equal 'its worker is told' "$(guest "$id" cat /run/mvm/secrets-epoch)" "$(epoch)"
mvm --quiet instance wake "$some"
equal 'the warm one got them as it woke' "$(sees "$some" mail/)" "$(canary mail 3)"

say 'killed in the middle of it, and asked again'
for pause in 0.15 0.4 0.8 1.2; do
    give "killed-$pause"
    mvm tenant secrets rotate acme --live >/dev/null 2>&1 & pid=$!
    sleep "$pause"; kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true
    told=$(mvm --json instance list acme | jq -r '[.[].secrets_epoch] | min')
    least=$(for i in "$id" "$some"; do guest "$i" cat /run/mvm/secrets-epoch; done | sort -n | head -1)
    check "no guest has older ones than its record says ($told, $least)" test "$least" -ge "$told"
done
give 4
mvm --quiet tenant secrets rotate acme --live
equal 'one guest' "$(sees "$id")" "$(canary mail 4)"
equal 'the other' "$(sees "$some" mail/)" "$(canary mail 4)"
equal 'nothing is staged' "$(ls /var/lib/mvm/tenants/acme | grep -c '^secrets')" 1
hidden 'at the end'
equal 'what happened is told' "$(mvm --json events acme --last 200 | jq -r '[.[].event | select(startswith("Secrets"))] | unique | join(" ")')" 'SecretsDelivered SecretsRotated SecretsSet'

say 'without a key: a warning, and nothing in production'
mvm --quiet tenant create plain --no-key
mvm tenant secrets set plain --from-file /run/source.json 2>/tmp/warning
check 'it warns' grep -q 'mvm: warning: tenant plain has no key' /tmp/warning
MVM_PRODUCTION=1 refused 4 mvm tenant secrets set plain --from-file /run/source.json

say 'nothing is left'
mvm --quiet tenant destroy plain --force
mvm --quiet tenant destroy acme --force
rm /run/source.json
check 'no value anywhere' test -z "$(on_disk)"
clean
