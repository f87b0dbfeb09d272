# tier: ci
# minutes: 8
# A sample of the fifty of clones-long.
source /usr/local/lib/mvm-e2e/clones.sh
