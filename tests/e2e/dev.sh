# tier: ci
# minutes: 5
# Dev mode: from none, running, sleeping and stopped; a start that is killed goes on; nothing else is touched.
source /usr/local/lib/mvm-e2e/dev.sh

say 'nothing is there'
equal 'status says so' "$(dev)" none
mvm --quiet stop
refused 125 mvm ssh -- true
echo 'cpu = 1' >/run/wrong.toml; refused 6 mvm start --config /run/wrong.toml
case "$REFUSAL" in *'line 1, column 1'*'did you mean cpus?'*) ;; *) fail "no place: $REFUSAL" ;; esac
equal 'a dry run says the way' "$(mvm --dry-run dev)" 'would do make the dev VM, start the dev VM, enter the dev VM'

made

say 'running: twice is once'
equal 'nothing is done' "$(mvm --json dev | jq -c .steps)" '[]'
refused 4 mvm start --memory 160
status=0; mvm ssh -- 'exit 7' || status=$?
equal 'the exit code is passed on' "$status" 7
inside 'echo mine >/mnt/data/own; sync'
check 'nothing is written back' test ! -e /data/own

say 'sleeping'
id=$(mvm --json status | jq -r .dev.instance)
mvm --quiet instance sleep "$id"
equal 'dev wakes it' "$(mvm --json dev | jq -c .steps)" '["wake"]'

say 'stopped, and another size'
mvm --quiet stop; mvm --quiet stop; equal 'it is stopped' "$(dev)" Stopped
mvm --quiet start --memory 160
equal 'it has its volume' "$(inside cat /mnt/data/own)" mine

say 'a VM of its own for one command'
status=0; said=$(mvm --quiet run $small -- sh -c 'hostname -i; exit 9') || status=$?
equal 'its exit code' "$status" 9
case "$said" in *172.16.1.*) echo 'ok: in a network of its own' ;; *) fail "where was it? $said" ;; esac
equal 'it is gone' "$(mvm --json instance list mvm-run | jq length)" 0

destroyed
