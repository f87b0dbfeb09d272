# A template is built once for pools of two tenants, signed, put into a storage and taken out of it again.
# tier: ci
# minutes: 6
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/docs.sh

oci() { python3 -W ignore /usr/local/lib/mvm-e2e/oci.py "$@"; }
work=/var/lib/storage-of-the-test
mkdir -p "$work/bucket" /etc/mvm
export AWS_ACCESS_KEY_ID=AKTEST AWS_SECRET_ACCESS_KEY=secret-canary-$RANDOM
python3 -W ignore /usr/local/lib/mvm-e2e/s3.py 9000 "$work" eu-test-1 2>"$work/log" &
printf '[storage]\nurl = "s3://bucket/templates"\nendpoint = "http://127.0.0.1:9000"\nregion = "eu-test-1"\n' >/etc/mvm/config.toml
oci layout /srv/web.tar first
within 20 curl -s -o /dev/null http://127.0.0.1:9000/ || fail "no storage: $(cat "$work/log")"
image_of() { mvm --json pool info "$1" | jq -r .current; }
objects=$work/bucket/templates/objects/sha256

# What a build or a pull that was killed leaves, until the next one.
images=/var/lib/mvm/images
scratch() { { find "$images" -name '.new-*'; find /var/lib/mvm/cache/parts -type f; } 2>/dev/null || true; }
# Kills a command as soon as there is something of that kind.
killed() {
    "$@" >/dev/null 2>&1 & local victim=$! status=0
    until [ -n "$(scratch)" ]; do kill -0 "$victim" 2>/dev/null || fail "it ended before it was killed: $*"; done
    kill -KILL "$victim"; wait "$victim" 2>/dev/null || status=$?
    equal "killed: $*" "$status" 137
    check 'in the middle' test -n "$(scratch)"
}

say 'a build that is killed'
printf '%s\n' 'template_id = "web"' 'source = "oci-archive:/srv/web.tar"' '[[variants]]' 'name = "small"' 'vcpus = 1' 'mem_mib = 128' >"$work/web.toml"
mvm --quiet template create "$work/web.toml"
killed mvm template build web
equal 'it is listed' "$(mvm --json template list | jq -r 'map(.template.template_id) | join(" ")')" web
equal 'without a build' "$(mvm --json template info web | jq -c '[.template.variants[].build]')" '[null]'
equal 'and none is verified' "$(mvm --json template verify web | jq -c .images)" '[]'
mvm --quiet template build web
mvm --quiet template verify web
equal 'nothing is left of it' "$(scratch)" ''

say 'the document: made, built, used, pushed'
typed templates.md
equal 'both variants are built, of one image' \
    "$(mvm --json template info web | jq -r '[.template.variants[].build.image] | unique | length')" 1

say 'a second tenant has the same bytes'
mvm tenant create umbrella
mvm pool create umbrella/web --template web:large
equal 'the sizes are those of the variant' \
    "$(mvm --json pool info umbrella/web | jq -c '.instance_resources | [.mem_mib, .data_disk_mib]')" '[192,64]'
mvm pool build umbrella/web
first=$(image_of acme/web)
equal 'the same image' "$(image_of umbrella/web)" "$first"
roots=$(stat -c %i /var/lib/mvm/tenants/{acme,umbrella}/pools/web/artifacts/revisions/"$first"/rootfs.squashfs | sort -u | wc -l)
equal 'one file on the disk' "$roots" 1
refused 4 mvm template delete web --force
mvm tenant destroy umbrella --force
mvm tenant destroy acme --force

say 'nobody who is not trusted, and nothing that was altered'
mvm template delete web --force
mvm node gc --quiet
check 'the image is gone with the template' test ! -e "/var/lib/mvm/images/$first"
refused 9 mvm template pull web
case "$REFUSAL" in *'is unknown'*) ;; *) fail "the reason is another one: $REFUSAL" ;; esac
install -D -m 644 /etc/mvm/signing.pub /etc/mvm/trusted_keys/builds.pub
root=$(find "$objects" -type f -printf '%s %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)
cp "$root" "$work/kept"
printf 'X' | dd of="$root" bs=1 seek=4096 conv=notrunc status=none
refused 9 mvm template pull web
head -c 1000 "$work/kept" >"$root"
refused 9 mvm template pull web
cp "$work/kept" "$root"
index=$work/bucket/templates/templates/web/index.json
cp "$index" "$work/index"
jq -c '.payload |= (@base64d | sub("minimal"; "maximal") | @base64)' "$work/index" >"$index"
refused 9 mvm template pull web
cp "$work/index" "$index"
AWS_SECRET_ACCESS_KEY=other-canary refused 7 mvm template pull web
equal 'nothing was changed' "$(mvm --json template list | jq length)" 0
check 'no image was kept' test ! -e "/var/lib/mvm/images/$first"

say 'taken out again, killed in the middle, and started'
mvm --dry-run template pull web >/dev/null
touch "$work/hold"
killed mvm template pull web
rm "$work/hold"
equal 'no template is here' "$(mvm --json template list | jq length)" 0
refused 3 mvm template info web
refused 3 mvm template verify web
mvm template pull web
mvm template verify web
equal 'nothing is left of what broke off' "$(scratch)" ''
mvm tenant create acme
mvm pool create acme/web --template web:small
mvm pool build acme/web
equal 'it is the image that was pushed' "$(image_of acme/web)" "$first"
id=$(mvm --json instance create acme/web | jq -r .instance)
mvm instance start "$id"
within 60 guest "$id" sh -c '[ -s /tmp/said ]' || fail 'its program said nothing'
printf 'X' | dd of="/var/lib/mvm/images/$first/rootfs.squashfs" bs=1 seek=64 conv=notrunc status=none
refused 9 mvm template verify web
check 'no key is in a log, a record or an event' sh -c "! grep -rqa canary /var/lib/mvm /run/mvm /etc/mvm"
check 'and in no request' sh -c "! grep -qa canary '$work/log'"

mvm tenant destroy acme --force
mvm template delete web --force
clean
