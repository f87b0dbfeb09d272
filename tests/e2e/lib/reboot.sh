# Runs once a boot, with its number as $1. RESETS says how many there are, OPERATIONS how many commands
# are at work when the power goes; SEED makes the choice repeatable.
source /usr/local/lib/mvm-e2e/prelude.sh

boot=${1:-0}
if [ "$boot" -gt 0 ]; then
    say "boot $boot"
    [ ! -e /run/mvm ] || fail 'the run directory outlived the boot'
fi
python3 /usr/local/lib/mvm-e2e/reboot.py "$boot" "$RESETS" "$OPERATIONS"
[ "$boot" = "$RESETS" ] || exit 0

for tenant in $(mvm --json tenant list | jq -r '.[].tenant_id'); do mvm --quiet tenant destroy "$tenant" --force; done
clean
