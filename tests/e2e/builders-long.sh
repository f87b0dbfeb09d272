# Builders that need the world outside, that are asked for without root, and whose command is killed or out of time.
# tier: full
# minutes: 15
# brings: builder packages
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/builders.sh
source /usr/local/lib/mvm-e2e/packages.sh

mkdir -p /etc/mvm
printf '[builder]\nvcpus = 1\nmem_mib = 512\ndisk_mib = 512\n' >/etc/mvm/config.toml
current() { mvm --json pool info "$1" | jq -r .current; }
building() { [ -n "$(ip -o link | grep -oE 'tn[0-9]+i2:')" ]; }
# pool greeting: an instance of it says this, and is gone again.
greets() {
    local i; i=$(mvm --json instance create "$1" | jq -r .instance)
    mvm --quiet instance start "$i"
    within 30 guest "$i" cat /run/turns >/dev/null || fail "it does not live: $(mvm instance logs "$i" | tail -n 20)"
    equal "an instance of $1 runs what was made" "$(guest "$i" cat /run/greeting)" "$2"
    mvm --quiet instance destroy "$i" --force
}
words() { case "$REFUSAL" in *"$1"*) echo "ok: it says: $1" ;; *) fail "no word of '$1': $REFUSAL" ;; esac; }

say 'a world outside, with a resolver and a server of files'
world_outside
ip netns exec world python3 /usr/local/lib/mvm-e2e/resolver.py 198.51.100.2 203.0.113.1 &
world=/srv/world; mkdir -p "$world"
ip netns exec world python3 -u -m http.server 8000 --bind 203.0.113.1 --directory "$world" 2>/run/world.log >&2 &
within 20 nc -z 198.51.100.2 53 || fail 'the resolver does not listen'
within 20 nc -z 203.0.113.1 8000 || fail 'the server does not listen'
rm -f /etc/resolv.conf; echo 'nameserver 198.51.100.2' >/etc/resolv.conf
asked() { grep -cF "GET /$1 " /run/world.log || true; }
was_asked() { [ "$(asked "$1")" -gt "$2" ]; }

say 'a template of a flake'
cp -r /usr/local/share/mvm-examples/flake-hello /root/hello; chmod -R u+w /root/hello
mvm tenant create acme --max-pools 8
mvm tenant create umbrella
cat >/root/template.toml <<'TOML'
template_id = "hello"
source = "path:/root/hello"
profile = "minimal"

[[variants]]
name = "small"
vcpus = 1
mem_mib = 128
TOML
mvm template create /root/template.toml
refused 2 mvm template build hello
mvm template build hello --tenant acme
none_left 'no builder is left'
for tenant in acme umbrella; do
    mvm pool create "$tenant/hello" --template hello
    mvm pool build "$tenant/hello"
done
first=$(current acme/hello)
equal 'a second tenant has the same image' "$(current umbrella/hello)" "$first"
equal 'and no other file' \
    "$(stat -c %i /var/lib/mvm/tenants/{acme,umbrella}/pools/hello/artifacts/revisions/"$first"/rootfs.squashfs | sort -u | wc -l)" 1
greets umbrella/hello hello

say 'a flake that the builder fetches itself, by a name'
pack() { tar -C /root --sort=name --mtime=@1 --owner=0 --group=0 -czf "$world/hello.tar.gz" hello; }
pack
mvm pool create acme/fetched --flake http://world.test:8000/hello.tar.gz --cpus 1 --mem 128
mvm pool build acme/fetched
check 'it was fetched' was_asked hello.tar.gz 0
none_left 'no builder is left'
equal 'where a flake comes from does not count' "$(current acme/fetched)" "$first"
sed -i 's/"hello"/"hello from outside"/' /root/hello/profiles/minimal.nix; pack
mvm pool build acme/fetched
check 'what changed outside is another image' test "$(current acme/fetched)" != "$first"
greets acme/fetched 'hello from outside'
second=$(current acme/fetched)
mv "$world/hello.tar.gz" "$world/gone.tar.gz"
refused 1 mvm pool build acme/fetched
words 'hello.tar.gz'
none_left 'no builder is left'
equal 'what is not there leaves the build that there was' "$(current acme/fetched)" "$second"

say 'a flake with an input that is locked and lies outside'
mkdir -p /root/words /root/locked; cp /root/hello/make.sh /root/locked
echo 'hello from an input' >/root/words/greeting
pack_words() { tar -C /root -czf "$world/words.tar.gz" words; }
pack_words
cat >/root/locked/flake.nix <<'NIX'
{
  inputs.words = { url = "http://world.test:8000/words.tar.gz"; flake = false; };
  outputs = { self, words }: {
    packages.x86_64-linux.minimal = derivation {
      name = "hello";
      system = "x86_64-linux";
      builder = "/bin/sh";
      args = [ ./make.sh ];
      place = "rootfs";
      greeting = builtins.readFile (words + "/greeting");
    };
  };
}
NIX
jq -n --arg hash "$(python3 /usr/local/lib/mvm-e2e/nar.py /root/words)" \
    '{type: "tarball", url: "http://world.test:8000/words.tar.gz"} as $from |
     {nodes: {root: {inputs: {words: "words"}}, words: {flake: false, locked: ($from + {narHash: $hash}), original: $from}},
      root: "root", version: 7}' >/root/locked/flake.lock
mvm pool create acme/locked --flake /root/locked --cpus 1 --mem 128
mvm pool build acme/locked
none_left 'no builder is left'
greets acme/locked 'hello from an input'
third=$(current acme/locked)
echo 'hello from somebody else' >/root/words/greeting; pack_words
refused 1 mvm pool build acme/locked --force
words 'hash mismatch'
none_left 'no builder is left'
equal 'an input that was altered leaves the build that there was' "$(current acme/locked)" "$third"
mvm tenant destroy umbrella --force

say 'commands that fetch something'
repository
mkdir -p /srv/web
# What the second command fetches is not there until somebody puts it there.
cat >/srv/web/Mvmfile.toml <<'TOML'
[image]
name = "web"
base = "deb:busybox-static"

[resources]
memory = 128
cpus = 1

[[run]]
command = "mkdir -p /srv && wget -q -O /srv/greeting http://world.test:8000/greeting"

[[run]]
command = "until wget -q -O /srv/rest http://203.0.113.1:8000/rest; do sleep 1; done"

[[services]]
name = "greeter"
command = "cat /srv/greeting /srv/rest >/run/greeting; touch /run/turns; exec sleep 1000000"
TOML
echo hello >"$world/greeting"; echo again >"$world/rest"
log=/var/lib/mvm/tenants/acme/pools/web/build.log
mvm pool create acme/web --image /srv/web
mvm pool build acme/web
none_left 'no builder is left'
web=$(current acme/web)
greets acme/web $'hello\nagain'
rm "$world/greeting"
refused 1 mvm pool build acme/web --force
words 'exit code 1'
words '404'
none_left 'no builder is left'
equal 'a command that fetches nothing leaves the build that there was' "$(current acme/web)" "$web"
check 'what it said is kept' grep -q 404 "$log"
echo hello >"$world/greeting"

say 'a build that is killed while a command waits'
rm "$world/rest"; before=$(asked rest)
mvm pool build acme/web --force >/root/killed.log 2>&1 & pid=$!
check 'the command runs' within 90 was_asked rest "$before"
kill -9 "$pid"; wait "$pid" 2>/dev/null || true
check 'the builder was left' building
equal 'the build is the one that there was' "$(current acme/web)" "$web"
echo again >"$world/rest"
mvm pool build acme/web --force
none_left 'the next build took it away'
equal 'and made the same' "$(current acme/web)" "$web"

say 'a build that is killed while its image is written'
images=/var/lib/mvm/images
# pid: comes back between the first byte of an image and its last one, and kills.
kill_half_made() {
    until compgen -G "$images/.new-*/rootfs.squashfs" >/dev/null; do
        kill -0 "$1" 2>/dev/null || fail "it left no time to be killed: $(cat /root/killed.log)"
    done
    kill -9 "$1"; wait "$1" 2>/dev/null || true
    check 'half of an image was left' compgen -G "$images/.new-*"
}
no_half() { ! compgen -G "$images/.new-*" >/dev/null; }
sed -i 's/^command = "mkdir/command = "echo other >\/other; mkdir/' /srv/web/Mvmfile.toml
mvm pool build acme/web >/root/killed.log 2>&1 & kill_half_made $!
equal 'the build is the one that there was' "$(current acme/web)" "$web"
mvm pool build acme/web
none_left 'the next build took the builder away'
check 'and the half of an image' no_half
check 'and made all of it' test "$(current acme/web)" != "$web"
web=$(current acme/web)

say 'a build that is out of time while a command waits'
rm "$world/rest"; before=$(asked rest)
refused 8 mvm pool build acme/web --force --timeout 60
words 'took too long'
words '--timeout'
check 'it was at work' was_asked rest "$before"
none_left 'no builder is left'
equal 'the build is the one that there was' "$(current acme/web)" "$web"
greets acme/web $'hello\nagain'

say 'asked by who has no root'
cp /usr/local/share/mvm/systemd/mvm-hostd.service /etc/systemd/system/
install -D -m 644 /usr/local/share/mvm/systemd/mvm.sysusers /etc/sysusers.d/mvm.conf
systemd-sysusers; systemctl daemon-reload; systemctl start mvm-hostd
echo again >"$world/rest"
setpriv --reuid mvm --regid mvm --clear-groups mvm pool build acme/web --force
none_left 'no builder is left'
equal 'it made the same' "$(current acme/web)" "$web"
greets acme/web $'hello\nagain'
systemctl stop mvm-hostd

say 'an image that is taken out of a file, killed in the middle'
there() { find "$images" -mindepth 1 -maxdepth 1 -regex '.*/[0-9a-f]+' -printf '%f\n' | sort; }
mvm image export builder --output /root/builder.elf
there >/root/images
mvm image import /root/builder.elf >/root/killed.log 2>&1 & kill_half_made $!
equal 'which is none' "$(there)" "$(cat /root/images)"
taken=$(mvm --json image import /root/builder.elf | jq -r .image)
equal 'the next one has all of it' "$(there | comm -13 /root/images -)" "$taken"
check 'and took the half away' no_half
mvm image export "$taken" --output /root/again.elf # All of it is read.
equal 'it is the same, taken again' "$(mvm --json image import /root/builder.elf | jq -r .image)" "$taken"

mvm tenant destroy acme --force
mvm template delete hello --force
clean
