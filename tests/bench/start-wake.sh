# minutes: 20
# Start and wake against the bare Firecracker sequence, in turn, in one host.
set -euo pipefail
mvm-bench start-wake "${ROUNDS:-30}" 2>/run/progress || { cat /run/progress >&2; exit 1; }
