# tier: full
# minutes: 12
# Dev mode: every line of the documents from every state, with what is killed on the way; the document is typed.
source /usr/local/lib/mvm-e2e/dev.sh

say 'nothing is there'
equal 'status says so' "$(dev)" none
mvm --quiet stop; mvm --quiet stop
refused 125 mvm ssh -- true
refused 3 mvm start path/to/image.elf --cpus 4 --memory 2048
touch /run/image.elf; refused 6 bash -c 'cd /run && mvm start image.elf'
echo 'cpu = 1' >/run/wrong.toml; refused 6 mvm start --config /run/wrong.toml
case "$REFUSAL" in *'line 1, column 1'*'did you mean cpus?'*) ;; *) fail "no place: $REFUSAL" ;; esac
refused 6 mvm start --volume /data:/mnt
equal 'a dry run says the way' "$(mvm --dry-run dev)" 'would do make the dev VM, start the dev VM, enter the dev VM'
equal 'and makes nothing' "$(dev)" none
mvm --quiet bootstrap; mvm --quiet setup

made

say 'running: twice is once'
mvm --json dev | jq -e '.steps == []' >/dev/null; mvm --quiet start; mvm --quiet start $small
refused 4 mvm start --memory 160
status=0; mvm ssh -- 'exit 7' || status=$?
equal 'the exit code is passed on' "$status" 7
inside 'echo mine >/mnt/data/own; sync'
check 'nothing is written back' test ! -e /data/own
equal 'what OpenSSH needs' "$(mvm ssh-config | head -n 1)" 'Host mvm-dev'

say 'OpenSSH is carried to the server of the image'
ssh-keygen -q -t ed25519 -N '' -f /run/key
inside 'mkdir -p -m 700 /root/.ssh; cat >/root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys' </run/key.pub
mvm ssh-config >/run/ssh_config
equal 'and runs a command there' "$(ssh -F /run/ssh_config -i /run/key mvm-dev hostname)" "$(inside hostname)"

say 'sleeping and warm'
id=$(mvm --json status | jq -r .dev.instance)
mvm --quiet instance sleep "$id"; equal 'it sleeps' "$(dev)" Sleeping
equal 'dev wakes it' "$(mvm --json dev | jq -c .steps)" '["wake"]'
equal 'where it was' "$(inside cat /mnt/data/own)" mine
mvm --quiet instance warm "$id"; mvm --quiet start; equal 'start wakes it' "$(dev)" Running

say 'a VM of its own for one command, and one that is killed'
status=0; said=$(mvm --quiet run $small -- sh -c 'hostname -i; exit 9') || status=$?
equal 'its exit code' "$status" 9
case "$said" in *172.16.1.*) echo 'ok: in a network of its own' ;; *) fail "where was it? $said" ;; esac
runs() { mvm --json instance list mvm-run | jq length; }
equal 'it is gone' "$(runs)" 0
mvm --quiet run $small -- sleep 600 & running=$!
within 150 bash -c 'mvm --json instance list mvm-run | jq -e ".[0].state == \"Running\"" >/dev/null'
kill -KILL "$running"; wait "$running" 2>/dev/null || true
equal 'it was left behind' "$(runs)" 1
left=$(mvm --json instance list mvm-run | jq -r '.[0].instance')
mvm --quiet run $small -- sleep 600 & running=$!
within 150 bash -c 'mvm --json instance list mvm-run | jq -e "length == 1 and .[0].state == \"Running\" and .[0].instance != \"$1\"" >/dev/null' - "$left" ||
    fail "the next one did not remove it: $(mvm --json instance list mvm-run)"
echo 'ok: the next one removed it'
kill -INT "$running"; status=0; wait "$running" || status=$?
equal 'Ctrl-C' "$status" 130
equal 'and that is gone, too' "$(runs)" 0

say 'stopped, and another size'
mvm --quiet stop; mvm --quiet stop; equal 'it is stopped' "$(dev)" Stopped
refused 125 mvm ssh -- true
mvm --quiet start --memory 160
equal 'it has the size' "$(mvm --json status | jq -r .dev.mem_mib)" 160
equal 'and its volume' "$(inside cat /mnt/data/own)" mine

say 'dead and stuck'
kill -KILL "$(mvm --json instance list local/dev | jq -r '.[0].pid')"
equal 'dev starts it' "$(mvm --json dev | jq -c .steps)" '["start"]'
kill -STOP "$(mvm --json instance list local/dev | jq -r '.[0].pid')"
equal 'dev stops and starts what does not answer' "$(mvm --json dev | jq -c .steps)" '["stop","start"]'
equal 'with its volume' "$(inside cat /mnt/data/own)" mine

say 'build, and an image of its own'
mkdir -p /run/own; printf '[image]\nname = "own"\nbase = "nonsense"\n' >/run/own/Mvmfile.toml
refused 6 mvm build /run/own
refused 3 mvm build /run/absent

destroyed

say 'the document'
source /usr/local/lib/mvm-e2e/docs.sh
typed dev.md
clean
