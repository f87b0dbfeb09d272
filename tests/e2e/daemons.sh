# tier: ci
# minutes: 6
# The agent has no root: what needs it is asked of a daemon that does what it admits. Units as shipped; both are
# restarted and killed, an agent that was taken over obtains nothing, and root's own commands go on beside them.
source /usr/local/lib/mvm-e2e/prelude.sh
KILLS=6
source /usr/local/lib/mvm-e2e/daemons.sh
