# Images of Debian packages that are named, and of an Mvmfile.toml whose commands ran in a builder: made,
# booted, asked, put to sleep, woken.
# tier: ci
# minutes: 8
# brings: builder packages
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/packages.sh

current() { mvm --json pool info "$1" | jq -r .current; }
# instance command…: it runs, goes to sleep, wakes as what it was.
lives() {
    local i=$1; shift
    mvm instance start "$i"
    within 30 guest "$i" "$@" >/dev/null || fail "it does not live: $(mvm instance logs "$i" | tail -n 20)"
    before=$(guest "$i" "$@")
    guest "$i" sh -c 'echo there >/run/mark'
    mvm instance sleep "$i"
    mvm instance wake "$i"
    equal 'it woke as what it was' "$(guest "$i" cat /run/mark) $(guest "$i" "$@")" "there $before"
}

say 'a directory whose base is the default image, without any source of packages'
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
mkdir -p /srv/plain
printf '[image]\nname = "plain"\nbase = "default"\n' >/srv/plain/Mvmfile.toml
equal 'it is the default image' "$(mvm --json build /srv/plain | jq -r .image)" "$(cat /var/lib/mvm/images/refs/default)"
printf '[[services]]\nname = "idle"\ncommand = ["/bin/sleep", "1000000"]\n' >>/srv/plain/Mvmfile.toml
check 'with a service it is another one' test "$(mvm --json build /srv/plain | jq -r .image)" != "$(cat /var/lib/mvm/images/refs/default)"

say 'packages'
repository
mvm tenant create acme
mvm pool create acme/deb --image deb:greeter,dropbear-bin --cpus 1 --mem 128
mvm pool build acme/deb
i=$(mvm --json instance create acme/deb | jq -r .instance)
lives "$i" sh -c 'test -x /usr/bin/greeter -a -x /usr/sbin/dropbear && echo both'
mvm --quiet instance destroy "$i" --force

say 'a directory with an Mvmfile.toml'
mkdir -p /etc/mvm /srv/web
printf '[builder]\nvcpus = 1\nmem_mib = 256\ndisk_mib = 256\n' >/etc/mvm/config.toml
cat >/srv/web/Mvmfile.toml <<'END'
[image]
name = "web"
base = "deb:busybox-static"
disk = 32

[packages]
apt = ["greeter"]

[resources]
memory = 128
cpus = 1

[[run]]
command = "mkdir -p /srv/web && echo made >/srv/web/how && chown 7:8 /srv/web/how && chmod 640 /srv/web/how"

[[run]]
command = "(sleep 1000 &) ; touch /run/lost /tmp/lost; mount -t tmpfs lost /mnt; touch /mnt/lost; id -u >/srv/web/who"

[[services]]
name = "greeter"
command = 'exec greeter "$WHOM" >/run/greeting'
env = { WHOM = "the service" }
END
mvm pool create acme/web --image /srv/web
equal 'its instances are as the file says' \
    "$(mvm --json pool info acme/web | jq -c '.instance_resources | [.vcpus, .mem_mib, .data_disk_mib]')" '[1,128,32]'
mvm pool build acme/web
first=$(current acme/web)
grep -q '^+ mkdir -p /srv/web' /var/lib/mvm/tenants/acme/pools/web/build.log
i=$(mvm --json instance create acme/web | jq -r .instance)
lives "$i" sh -c 'cat /run/greeting /srv/web/how /srv/web/who; stat -c %u:%g:%a /srv/web/how; ls /mnt /tmp; df -m /data | grep -c /data'
equal 'its service ran in what its commands made, and nothing else of them is there' "$before" \
    "$(printf '%s\n' 'hello from the service' made 0 7:8:640 /mnt: '' /tmp: 1)"
mvm --quiet instance destroy "$i" --force
started=$(date +%s%N)
mvm pool build acme/web
took=$((($(date +%s%N) - started) / 1000000))
equal "what did not change is the same image, in $took ms" "$(current acme/web)" "$first"
sed -i 's/echo made/echo it cannot be made; exit 3/' /srv/web/Mvmfile.toml
refused 1 mvm pool build acme/web
case "$REFUSAL" in *'exit code 3'*'it cannot be made'*) ;; *) fail "no words of the command: $REFUSAL" ;; esac
equal 'a command that fails leaves the build that there was' "$(current acme/web)" "$first"

mvm tenant destroy acme --force
clean
