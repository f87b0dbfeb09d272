# A flake is built by Nix in a microVM of its own, which is gone afterwards, whatever happens.
# tier: ci
# minutes: 6
# brings: builder
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/builders.sh

mkdir -p /etc/mvm
printf '[builder]\nvcpus = 1\nmem_mib = 512\ndisk_mib = 512\n' >/etc/mvm/config.toml
cp -r /usr/local/share/mvm-examples/flake-hello /root/hello
chmod -R u+w /root/hello
current() { mvm --json pool info "$1" | jq -r .current; }

say 'a pool is built from a flake'
mvm tenant create acme
mvm pool create acme/hello --flake /root/hello --cpus 1 --mem 128
mvm pool build acme/hello
none_left 'no builder is left'
first=$(current acme/hello)
grep -q 'building packages.x86_64-linux.tenant-minimal' /var/lib/mvm/tenants/acme/pools/hello/build.log
equal 'one pool' "$(mvm --json pool list acme | jq length)" 1
equal 'the audit log knows the builder, which was where builders are' \
    "$(mvm --json events acme --last 100 | jq -r '[.[] | select(.pool == "mvm-builder") | .event] | contains(["InstanceCreated", "InstanceDestroyed"])')" true

say 'what did not change is not built again'
started=$(date +%s%N)
mvm pool build acme/hello
took=$((($(date +%s%N) - started) / 1000000))
check "in $took ms" [ "$took" -lt 2000 ]
equal 'the same image' "$(current acme/hello)" "$first"

say 'an instance of it starts, sleeps and wakes'
i=$(mvm --json instance create acme/hello | jq -r .instance)
mvm instance start "$i"
within 20 guest "$i" cat /run/turns >/dev/null
equal 'its program runs' "$(guest "$i" cat /run/greeting)" hello
mvm instance sleep "$i"
before=$(date +%s)
mvm instance wake "$i"
turns=$(guest "$i" cat /run/turns)
more() { [ "$(guest "$i" cat /run/turns)" -gt "$turns" ]; }
check 'it goes on' within 20 more
mvm --quiet instance destroy "$i" --force

say 'a flake that fails leaves the build that there is'
cp /root/hello/make.sh /root/make.sh
echo 'echo it cannot be made; exit 3' >/root/hello/make.sh
refused 1 mvm pool build acme/hello
case "$REFUSAL" in *'it cannot be made'*) ;; *) fail "no words of the build: $REFUSAL" ;; esac
none_left 'no builder is left'
equal 'the build that there was' "$(current acme/hello)" "$first"
cp /root/make.sh /root/hello/make.sh

say 'a command that is killed, and the next one'
mvm pool build acme/hello --force >/root/killed.log 2>&1 & pid=$!
building() { [ -n "$(ip -o link | grep -oE 'tn[0-9]+i2:')" ]; }
check 'a builder is at work' within 60 building
kill -9 "$pid"; wait "$pid" 2>/dev/null || true
check 'it was left' building
mvm pool build acme/hello --force
none_left 'no builder is left'
equal 'two builds are one image' "$(current acme/hello)" "$first"

say 'an attribute without role or tenant, in links into the store'
mvm pool create acme/linked --flake path:/root/hello --profile linked --cpus 1 --mem 128
mvm pool build acme/linked
i=$(mvm --json instance create acme/linked | jq -r .instance)
mvm instance start "$i"
within 20 guest "$i" cat /run/turns >/dev/null
equal 'its program runs' "$(guest "$i" cat /run/greeting)" 'hello from the store'
case "$(guest "$i" readlink /etc/mvm/start)" in
/nix/store/*-hello/./etc/mvm/start | /nix/store/*-hello/etc/mvm/start) echo 'ok: from the store' ;;
*) fail "it is no link into the store: $(guest "$i" ls -l /etc/mvm)" ;;
esac

mvm --quiet instance destroy "$i" --force

say 'what the flake does not have'
mvm pool create acme/large --flake /root/hello --profile large --cpus 1 --mem 128
refused 6 mvm pool build acme/large
none_left 'no builder was made for it'
mvm tenant destroy acme --force
clean
