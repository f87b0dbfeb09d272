# minutes: 20
# Start and wake against the bare Firecracker sequence, in turn, in one host.
set -euo pipefail
mvm-bench "${ROUNDS:-15}"
