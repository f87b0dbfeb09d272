#!/usr/bin/env bash
# The quick start of the README, as a person would type it. Runs as root in a test host.
set -euo pipefail

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run mvm tenant create acme --net-id 3 --subnet 10.240.3.0/24
run mvm pool create acme/workers --image default --cpus 1 --mem 256
run mvm pool build acme/workers
run mvm pool scale acme/workers --running 3 --warm 1
run mvm instance list acme/workers
path=$(mvm instance list acme/workers --json | jq -r 'first(.[] | select(.state == "Running")).instance')
run mvm instance exec "$path" -- uname -sr
run mvm instance sleep "$path"
run mvm instance list acme/workers
run mvm instance wake "$path"
run mvm instance exec "$path" -- uptime
run mvm net verify
run mvm events acme --last 8
