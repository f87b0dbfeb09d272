# tier: ci
# minutes: 12
# A sample of the long list of crash-long.
source /usr/local/lib/mvm-e2e/crash.sh
