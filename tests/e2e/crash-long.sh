# tier: full
# minutes: 45
# The long list.
export MOMENTS=30
source /usr/local/lib/mvm-e2e/crash.sh
