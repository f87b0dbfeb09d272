# tier: full
# minutes: 60
# resets: 20
# The long list.
export RESETS=20 OPERATIONS=4
source /usr/local/lib/mvm-e2e/reboot.sh
