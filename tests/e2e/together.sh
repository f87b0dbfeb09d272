# tier: ci
# minutes: 12
# A sample of the long list of together-long.
source /usr/local/lib/mvm-e2e/together.sh
