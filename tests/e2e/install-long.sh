# tier: full
# minutes: 10
# brings: release
# A release on a machine: the installer, an upgrade and the way back, the Debian package with its units. What each
# refuses is shown by tests that need no machine.
source /usr/local/lib/mvm-e2e/prelude.sh
cd /root/release
rm /usr/local/bin/mvm*
export MVM_ASSET_MIRROR=/root/release
version=$(basename releases/download/v*); version=${version#v}
names() { find "$1" -mindepth 1 -maxdepth 1 -printf '%f\n' | LC_ALL=C sort | paste -sd' '; }

say 'installed by hand, for root'
got=0; sh install.sh || got=$?
equal 'without a key nothing is installed' "$got" 9
sh install.sh --key release.pub
equal 'the version' "$(mvm --version)" "mvm $version"
check 'units and pages are there' test -f /usr/local/bin/.mvm/current/lib/systemd/system/mvm-hostd.service -a \
    -f /usr/local/bin/.mvm/current/share/man/man1/mvm-pool-scale.1
mvm --quiet tenant create acme
check 'it works' mvm tenant info acme

say 'upgraded and taken back'
mkdir -p /etc/mvm && echo 'release_key = "/root/release/release.pub"' >/etc/mvm/config.toml
mvm upgrade --check
mvm --json upgrade --force >/run/upgrade.json
equal 'installed once more' "$(jq -r '[.act, .version, .former] | join(" ")' /run/upgrade.json)" "installed $version $version"
python3 /usr/local/lib/mvm-e2e/fits.py upgrade </run/upgrade.json
equal 'two versions are kept' "$(names /usr/local/bin/.mvm)" "$version~1 $version~2 current former"
equal 'back' "$(mvm --json upgrade --rollback | jq -r .act)" rolled_back
equal 'to the first one' "$(readlink /usr/local/bin/.mvm/current)" "$version~1"
one=$(one_instance acme web)
mvm --quiet instance start "$one"
mvm --quiet upgrade --force
equal 'a guest does not notice' "$(guest "$one" echo on)" on
printf 'x' >>releases/latest/download/SHA256SUMS
refused 9 mvm upgrade
mvm --quiet tenant destroy acme --force

say 'the Debian package'
rm -r /usr/local/bin/mvm* /usr/local/bin/.mvm
package=$(find releases/download -name '*.deb')
dpkg --info "$package" | sed -n '/Package:/,$p'
dpkg --install "$package"; hash -r
equal 'where it is' "$(command -v mvm)" /usr/bin/mvm
check 'the user is there' id mvm
equal 'nothing runs yet' "$(systemctl is-enabled mvm-hostd || true)" disabled
systemd-analyze verify /usr/lib/systemd/system/mvm-*.service
systemctl enable --now mvm-hostd mvm-agentd
mvm --quiet tenant create acme
refused 4 mvm upgrade
before=$(systemctl show -p MainPID --value mvm-hostd)
dpkg --install "$package"; hash -r
check 'a running daemon takes over the new programs' test "$(systemctl show -p MainPID --value mvm-hostd)" != "$before"
dpkg --remove mvm
equal 'its daemons are gone' "$(systemctl is-active mvm-hostd || true)" inactive
dpkg --purge mvm
check 'what tenants have is not' test -d /var/lib/mvm/tenants/acme -a -f /var/lib/mvm/store/state.db
dpkg --install "$package"; hash -r
check 'and is there for the next one' mvm tenant info acme
mvm --quiet tenant destroy acme --force
