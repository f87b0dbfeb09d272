#!/usr/bin/env bash
# The quick start of the manual, as a person would type it. Runs as root in a test host.
set -euo pipefail

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run mvm tenant create acme --net-id 3 --subnet 10.240.3.0/24 \
  --max-vcpus 16 --max-mem 32768 --max-running 8
run mvm pool create acme/workers --image default --profile minimal --cpus 2 --mem 1024
run mvm pool build acme/workers
run mvm pool scale acme/workers --running 3 --warm 1
run mvm instance list acme/workers

# Any running instance will do.
path=$(mvm instance list acme/workers --json |
  jq -r 'first(.. | objects | select(.state? == "running")) |
    "\(.tenant // "acme")/\(.pool // "workers")/\(.id // .instance)"')
[[ $path == acme/workers/i-* ]]

run mvm instance ssh "$path" -- uname -sr
run mvm instance sleep "$path"
run mvm instance wake "$path"
run mvm instance ssh "$path" -- uptime
run mvm net verify
run mvm tenant destroy acme --force
