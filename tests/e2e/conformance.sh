# tier: ci
# minutes: 8
# The conformance suite that the simulated host passes natively, over the real host.
set -euo pipefail
mkdir -p /run/mvm
mvm-conformance
