# tier: full
# minutes: 30
# brings: debian builder packages
# Every source of images with Debian's own kernel, modules and initramfs: booted, asked, put to sleep, woken.
source /usr/local/lib/mvm-e2e/prelude.sh
source /usr/local/lib/mvm-e2e/packages.sh

# What is built boots the kernel of `default`, what a flake makes that of `builder`.
mv /var/lib/mvm/images/refs/debian /var/lib/mvm/images/refs/default
mv /var/lib/mvm/images/refs/debian-builder /var/lib/mvm/images/refs/builder
mkdir -p /etc/mvm /srv/web
printf '[builder]\nvcpus = 1\nmem_mib = 512\ndisk_mib = 512\n' >/etc/mvm/config.toml
repository
mvm tenant create acme --max-pools 7

# pool source command…: it is built, and an instance of it answers the same before and after a sleep.
lives() {
    local pool=acme/$1 flag=$2 source=$3 i before; shift 3
    say "$pool"
    mvm pool create "$pool" "$flag" "$source" --cpus 1 --mem 256
    mvm pool build "$pool"
    i=$(mvm --json instance create "$pool" | jq -r .instance)
    mvm instance start "$i"
    within 30 guest "$i" "$@" >/dev/null || fail "it does not live: $(mvm instance logs "$i" | tail -n 20)"
    before=$(guest "$i" "$@")
    case "$(guest "$i" cat /proc/version)" in *Debian*) echo "ok: the kernel is Debian's" ;; *) fail 'another kernel' ;; esac
    mvm instance sleep "$i"
    equal 'it is Sleeping' "$(state "$i")" Sleeping
    mvm instance wake "$i"
    equal 'it woke as what it was' "$(guest "$i" "$@")" "$before"
    mvm --quiet instance destroy "$i" --force
}

boot=(cat /proc/sys/kernel/random/boot_id)
lives default --image default "${boot[@]}"
lives deb --image deb:greeter "${boot[@]}"
mkdir -p /srv/plain
printf '%s\n' '[image]' 'name = "plain"' '[packages]' 'apt = ["greeter"]' \
    '[[services]]' 'name = "greeter"' 'command = "exec greeter default >/run/greeting"' >/srv/plain/Mvmfile.toml
lives plain --image /srv/plain cat /run/greeting /etc/os-release /proc/sys/kernel/random/boot_id
python3 -W ignore /usr/local/lib/mvm-e2e/oci.py layout /srv/app.tar first
lives oci --image oci-archive:/srv/app.tar cat /tmp/said /proc/sys/kernel/random/boot_id
printf '%s\n' '[image]' 'name = "web"' 'base = "deb:greeter"' '[[run]]' 'command = "echo made >/srv/how"' \
    '[[services]]' 'name = "greeter"' 'command = "exec greeter service >/run/greeting"' >/srv/web/Mvmfile.toml
lives file --image /srv/web cat /srv/how /run/greeting /proc/sys/kernel/random/boot_id
cp -r /usr/local/share/mvm-examples/flake-hello /root/hello
lives flake --flake /root/hello cat /run/greeting /proc/sys/kernel/random/boot_id
say 'a VM for one command, of a flake'
equal 'its program ran' "$(mvm --quiet run --cpus 1 --memory 256 --flake /root/hello -- sh -c 'until [ -e /run/greeting ]; do sleep 1; done; cat /run/greeting')" hello

mvm tenant destroy acme --force
mvm --quiet destroy --force
clean
