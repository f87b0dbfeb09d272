# tier: ci
# minutes: 4
# Images of a registry and of archives: made, booted, put to sleep; what is wrong, foreign or hostile is refused.
source /usr/local/lib/mvm-e2e/prelude.sh

oci() { python3 -W ignore /usr/local/lib/mvm-e2e/oci.py "$@"; }
work=/var/lib/registry-of-the-test; mkdir -p "$work"
registry=127.0.0.1:5000
password=secret-canary-$RANDOM
current() { mvm --json pool info acme/app | jq -r '.revisions[0].image'; }

say 'a registry that wants a password'
python3 -W ignore -c 'import crypt, sys; print("ci:" + crypt.crypt(sys.argv[1], "$2b$04$abcdefghijklmnopqrstuu"))' "$password" >"$work/htpasswd"
cat >"$work/config.yml" <<END
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/data}}
http: {addr: $registry}
auth: {htpasswd: {realm: test, path: $work/htpasswd}}
END
docker-registry serve "$work/config.yml" >"$work/log" 2>&1 &
within 60 curl -s -o /dev/null "http://$registry/v2/" || fail "no registry: $(cat "$work/log")"
read -r digest _ < <(oci push "$registry" "ci:$password" app:1 first)
mkdir -p /etc/mvm
printf '[registries]\nauth_file = "%s"\n' "$work/auth.json" >/etc/mvm/config.toml

say 'who may not, may not'
mvm tenant create acme
refused 6 mvm pool create acme/app --image oci:app:1 --cpus 1 --mem 128
mvm pool create acme/app --image "oci:$registry/app:1" --cpus 1 --mem 128
refused 7 mvm pool build acme/app
printf '{"auths":{"%s":{"auth":"%s"}}}' "$registry" "$(printf 'ci:%s' wrong | base64)" >"$work/auth.json"
refused 7 mvm pool build acme/app
case "$REFUSAL" in *wrong*) fail "a password is shown: $REFUSAL" ;; esac
printf '{"auths":{"%s":{"auth":"%s"}}}' "$registry" "$(printf 'ci:%s' "$password" | base64)" >"$work/auth.json"

say 'built and booted'
mvm pool build acme/app
first=$(current)
id=$(mvm --json instance create acme/app | jq -r .instance)
mvm instance start "$id"
within 60 guest "$id" sh -c '[ -s /tmp/said ]' || fail "the program said nothing: $(mvm instance logs "$id" | tail -n 20)"
equal 'the program has its arguments, directory, user and group; the upper layer holds, what it hides is gone' \
    "$(guest "$id" cat /tmp/said | xargs)" 'hello world /srv/made 1234 55 first'
before=$(guest "$id" cat /tmp/count)
mvm instance sleep "$id"
mvm instance wake "$id"
within 30 guest "$id" sh -c "read c </tmp/count; [ \$c -gt $before ]" || fail 'after the wake its program stands still'
equal 'it woke as what it was' "$(guest "$id" cat /tmp/said | xargs)" 'hello world /srv/made 1234 55 first'

say 'nothing new is nothing to do'
started=$(date +%s%N)
said=$(mvm pool build acme/app 2>&1)
echo "a warm build took $((($(date +%s%N) - started) / 1000000)) ms"
case "$said" in *unpacking* | *fetching*) fail "the same digest was fetched or unpacked again: $said" ;; esac
equal 'the same image' "$(current)" "$first"
mvm pool update acme/app --image "oci:$registry/app@$digest"
mvm pool build acme/app
equal 'by its digest it is the same' "$(current)" "$first"

say 'the tag moves'
read -r _ layer < <(oci push "$registry" "ci:$password" app:2 second)
mvm pool update acme/app --image "oci:$registry/app:2"
stored=$work/data/docker/registry/v2/blobs/sha256/${layer:7:2}/${layer:7}/data
cp "$stored" "$work/layer"
printf 'X' | dd of="$stored" bs=1 seek=30 conv=notrunc status=none
refused 9 mvm pool build acme/app
equal 'what a registry alters is never current' "$(current)" "$first"
cp "$work/layer" "$stored"
mvm pool build acme/app
check 'the other tag is another image' test "$(current)" != "$first"
second=$(current)
mvm pool update acme/app --image "oci:$registry/app:3"
refused 3 mvm pool build acme/app
mvm pool update acme/app --image "oci:$registry/app@sha256:$(printf '0%.0s' $(seq 64))"
refused 3 mvm pool build acme/app
equal 'a failed build leaves the current one' "$(current)" "$second"

say 'archives'
oci layout "$work/layout.tar" first
oci save "$work/save.tar" third
oci hostile "$work/hostile.tar"
mvm pool update acme/app --image "oci-archive:$work/layout.tar"
mvm pool build acme/app
equal 'the same manifest is the same image, wherever it lies' "$(current)" "$first"
mvm pool update acme/app --image "oci-archive:$work/save.tar"
mvm pool build acme/app
check 'what docker save writes is an image' test "$(current)" != "$first" -a "$(current)" != "$second"
third=$(current)
for image in "$work/hostile.tar" "$work/htpasswd"; do
    mvm pool update acme/app --image "oci-archive:$image"
    refused 6 mvm pool build acme/app
done
check 'nothing came out of the archive' test ! -e /root/evil
equal 'and the current one is the current one' "$(current)" "$third"
check 'no password is in a log or an event' sh -c "! grep -rqa '$password' /var/lib/mvm /run/mvm"

say 'one file'
cd "$work"
mvm image export acme/app --output app.elf
mvm image export acme/app --output twin.elf
check 'the same image makes the same bytes' cmp app.elf twin.elf
mvm tenant create bolt
mvm pool create bolt/app --image ./app.elf --cpus 1 --mem 128
mvm pool build bolt/app
carried=$(mvm --json pool info bolt/app | jq -r .current)
equal 'taken again it is the same image' "$(mvm --json image import app.elf | jq -r .image)" "$carried"
id=$(mvm --json instance create bolt/app | jq -r .instance)
mvm instance start "$id"
within 60 guest "$id" sh -c '[ -s /tmp/said ]' || fail "the program said nothing: $(mvm instance logs "$id" | tail -n 20)"
equal 'what was exported runs elsewhere' "$(guest "$id" cat /tmp/said | xargs)" 'hello world /srv/made 1234 55 third'
size=$(stat -c %s app.elf)
printf 'XXXX' | dd of=twin.elf bs=1 seek=$((size / 2)) conv=notrunc status=none
head -c $((size - 1)) app.elf >short.elf
cat app.elf htpasswd >long.elf
for file in twin short long; do
    mvm --quiet pool update bolt/app --image "./$file.elf"
    refused 9 mvm pool build bolt/app
done
refused 6 mvm image import htpasswd
refused 6 mvm pool update bolt/app --image ./htpasswd
equal 'and the current one is the current one' "$(mvm --json pool info bolt/app | jq -r .current)" "$carried"

say 'what Firecracker says is told with what to do'
# Of another size there is no base to begin from, so that it boots.
mvm --quiet pool update bolt/app --mem 144
id=$(mvm --json instance create bolt/app | jq -r .instance)
mount --bind /var/lib/mvm /var/lib/mvm
mount --make-private /var/lib/mvm
for options in noexec,dev:'cannot execute' nodev,exec:'/dev/net/tun'; do
    mount -o "remount,bind,${options%%:*}" /var/lib/mvm
    refused 1 mvm instance start "$id"
    case "$REFUSAL" in *"${options#*:}"*"without ${options%%,*}"*) ;; *) fail "no word about $options: $REFUSAL" ;; esac
done
umount /var/lib/mvm
kernel=/var/lib/mvm/images/$carried/vmlinux
head -c 4096 "$kernel" >"$work/begin"
dd if=/dev/zero of="$kernel" bs=4096 count=1 conv=notrunc status=none
refused 1 mvm instance start "$id"
case "$REFUSAL" in *'none that Firecracker boots'*'--force'*) ;; *) fail "no word about the kernel: $REFUSAL" ;; esac
dd if="$work/begin" of="$kernel" bs=4096 conv=notrunc status=none
mvm --quiet instance start "$id"
equal 'put right, it starts' "$(state "$id")" Running

mvm tenant destroy bolt --force
mvm tenant destroy acme --force
clean
