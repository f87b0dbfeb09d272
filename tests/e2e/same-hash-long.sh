# tier: full
# minutes: 15
# hosts: 2
# brings: builder packages
# Two hosts that share nothing make one image, byte by byte, of the same packages, archive and commands: their clocks,
# identities and order of files have no part in it.
source /usr/local/lib/mvm-e2e/prelude.sh

say 'the same inputs on both hosts'
mkdir -p /etc/mvm /srv/web
python3 -W ignore /usr/local/lib/mvm-e2e/oci.py layout /srv/app.tar first
printf '%s\n' '[image]' 'name = "web"' 'base = "deb:greeter"' '[[run]]' \
    'command = "mkdir -p /srv/made; for i in 3 1 2; do echo $i >/srv/made/$i; done; ln /srv/made/1 /srv/made/4"' >/srv/web/Mvmfile.toml
cat >/root/build.sh <<'END'
source /usr/local/lib/mvm-e2e/prelude.sh
printf '[builder]\nvcpus = 1\nmem_mib = 256\ndisk_mib = 256\n' >/etc/mvm/config.toml
mvm --quiet tenant create "$1"
for source in deb:greeter oci-archive:/srv/app.tar /srv/web; do
    mvm --quiet pool create "$1/app" --image "$source" --cpus 1 --mem 128
    mvm --quiet pool build "$1/app"
    hash=$(mvm --json pool info "$1/app" | jq -r .current)
    echo "$source $hash $(cd "/var/lib/mvm/images/$hash" && sha256sum rootfs.squashfs manifest.json | cut -d ' ' -f 1 | xargs)"
    mvm --quiet pool destroy "$1/app" --force
done
mvm --quiet tenant destroy "$1" --force
clean
END
source /usr/local/lib/mvm-e2e/packages.sh
repository
ssh host2 mkdir -p /srv/web /etc/mvm
tar -C / -cf - srv/packages srv/app.tar srv/web root/build.sh etc/apt/sources.list | ssh host2 tar -C / -xf -
ssh host2 'rm -rf /etc/apt/sources.list.d/*; apt-get update -qq'
# Another clock, and another order of files in the directory.
ssh host2 'date -s "2031-05-06 07:08:09" >/dev/null; cd /srv/packages; mkdir .other; mv ./* .other/; for f in $(ls -r .other); do mv ".other/$f" .; done'

say 'built on both'
bash /root/build.sh acme | tee /run/here
ssh host2 bash /root/build.sh other-name >/run/there || fail "it does not build there: $(cat /run/there)"
cat /run/there
check 'clocks differ' test "$(ssh host2 date +%Y)" != "$(date +%Y)"
equal 'three images each' "$(grep -c ' [0-9a-f]\{64\} ' /run/here)" 3
equal 'one hash, one root, one manifest for each source' "$(grep ' [0-9a-f]\{64\} ' /run/there)" "$(grep ' [0-9a-f]\{64\} ' /run/here)"
