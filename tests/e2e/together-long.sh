# tier: full
# minutes: 45
# The long list.
export COMMANDS=300
source /usr/local/lib/mvm-e2e/together.sh
