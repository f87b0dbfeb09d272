# tier: full
# minutes: 20
# As `daemons`, with both killed fifty times while the pool is scaled up and down.
source /usr/local/lib/mvm-e2e/prelude.sh
KILLS=50
source /usr/local/lib/mvm-e2e/daemons.sh
