# minutes: 25
# Clones and pages against the bare Firecracker sequence, in turn, in one host.
set -euo pipefail
mkdir -p /etc/mvm
printf '%s\n' 'vcpu_overcommit = 100' 'guest_memory_percent = 200' >>/etc/mvm/config.toml
mvm-bench clones "${ROUNDS:-30}" 2>/run/progress || { cat /run/progress >&2; exit 1; }
