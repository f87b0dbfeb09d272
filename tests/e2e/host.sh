#!/usr/bin/env bash
# The test host itself: what every other script takes for granted.
# tier: ci
# minutes: 3
source /usr/local/lib/mvm-e2e/prelude.sh
set -euo pipefail

test -c /dev/kvm
[[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]]
[[ $(hostname) == host1 ]]
grep -qw memory /sys/fs/cgroup/cgroup.controllers
[[ $(wc -c </etc/machine-id) -eq 33 ]]
(( $(date +%s) > 1790000000 ))

for tool in mvm jq nft python3 sqlite3 strace tcpdump arping socat nc mkfs.xfs cryptsetup; do
  command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 1; }
done

/var/lib/mvm/binaries/firecracker-1.12.1/firecracker --version | grep 'v1.12.1'
[[ -n $(find /var/lib/mvm/images -name 'vmlinux*' -size +1M -print -quit) ]]

nft add table inet probe
nft delete table inet probe
ip link add probe type bridge
ip link delete probe
[[ -z $(systemctl --failed --no-legend) ]]
echo "the test host is as expected"
