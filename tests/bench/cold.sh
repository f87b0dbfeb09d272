# minutes: 20
# brings: debian
# A clone against a cold boot of the default image with Debian's kernel, in turn, in one host.
set -euo pipefail
mvm-bench cold "${ROUNDS:-30}" 2>/run/progress || { cat /run/progress >&2; exit 1; }
