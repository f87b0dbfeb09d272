# tier: ci
# minutes: 6
# resets: 1
# The host loses its power, at rest and in the middle of commands; a sample of reboot-long.
export RESETS=1 OPERATIONS=3
source /usr/local/lib/mvm-e2e/reboot.sh
