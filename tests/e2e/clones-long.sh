# tier: full
# minutes: 20
# Fifty clones at once.
export COUNT=50
source /usr/local/lib/mvm-e2e/clones.sh
