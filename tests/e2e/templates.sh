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

say 'taken out again, and started'
mvm --dry-run template pull web >/dev/null
mvm template pull web
mvm template verify web
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
