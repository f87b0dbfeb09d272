# The QEMU provider on a machine whose KVM boots no guest: everything through the real `mvm`.
# `cargo xtask provider` runs it here, not in a test host; it gets directories of its own.
source "$MVM_TEST_LIB/prelude.sh"

host=$MVM_DATA_DIR/host run=$MVM_RUN_DIR/host
clock() { date +%s; }
took() { printf 'took: %s s for %s\n' "$(($(clock) - $1))" "$2"; }
emulator() { jq -r .process.pid "$run/emulator.json"; }
# Whoever sweeps after this script finds the emulator by this record.
note() { jq -c .process "$run/emulator.json" >"$MVM_TEST_DIR/emulator"; }
terminal() { python3 "$MVM_TEST_PROVIDER/terminal.py" "$@"; }

say 'prepare: what a test may reuse'
mkdir -p "$host/assets/images/refs"
cp -al "$MVM_TEST_BASES"/base-* "$host/" 2>/dev/null || echo 'no base is kept: it is made anew'
cp -al "$MVM_TEST_IMAGES" "$host/assets/images/"
basename "$MVM_TEST_IMAGES" >"$host/assets/images/refs/default"
touch "$MVM_DATA_DIR/of-somebody-else"

say 'doctor, before anything is installed'
status=0; mvm --json doctor >"$MVM_TEST_DIR/doctor" || status=$?
equal 'something is missing' "$status" 1
equal 'nothing can be said of Firecracker' \
    "$(jq -r '.[] | select(.name == "firecracker") | .health' "$MVM_TEST_DIR/doctor")" failed

say 'dev, where there is nothing'
began=$(clock)
steps=$(mvm --json dev </dev/null)
note
took "$began" 'a machine, and the dev VM in it'
equal 'in a machine that was not there it made the dev VM' "$(jq -c .steps <<<"$steps")" '["set_up","make","start"]'
equal 'and got into it' "$(mvm ssh -- hostname | wc -l)" 1
mvm --quiet stop
mkdir -p "$MVM_TEST_BASES"; cp -aln "$host"/base-* "$MVM_TEST_BASES/" || true
equal 'it is up' "$(mvm --json status | jq -r '.provider + " " + .state')" 'qemu running'
began=$(clock); mvm --quiet bootstrap; mvm --quiet setup
check 'again it finds nothing to do' test $(($(clock) - began)) -lt 15

say 'doctor knows that KVM is unusable here, in time'
began=$(clock); status=0; mvm --json doctor --production >"$MVM_TEST_DIR/doctor" || status=$?
equal 'failures give 1' "$status" 1
check 'within the deadline' test $(($(clock) - began)) -lt 15
check 'it says so' grep -q '"found": "unusable' "$MVM_TEST_DIR/doctor"
check 'every failure has advice' \
    jq -e 'all(.[]; (.health == "ok") == (.advice == null))' "$MVM_TEST_DIR/doctor" >/dev/null
refused 8 env MVM_HOST=native mvm instance start a/b/i-00000001
case "$REFUSAL" in *'mvm doctor'*'mvm bootstrap'*) ;; *) fail "no advice: $REFUSAL" ;; esac

say 'a life in the machine'
began=$(clock)
id=$(one_instance acme workers --data-disk 32)
mvm instance start "$id"
took "$began" 'from nothing to a running microVM'
equal 'it runs' "$(state "$id")" Running
refused 3 mvm tenant info nobody
refused 4 mvm tenant create acme
status=0; guest "$id" sh -c 'exit 42' || status=$?
equal "the guest's exit code comes through" "$status" 42
equal 'standard input goes in' "$(echo hello | mvm instance exec -i "$id" -- cat)" hello
odd="a b; \$(x) 'y' \"z\" *"
equal 'words arrive unchanged' "$(guest "$id" printf '%s' "$odd")" "$odd"
guest "$id" sh -c 'echo out; echo err >&2' >"$MVM_TEST_DIR/out" 2>"$MVM_TEST_DIR/err"
equal 'outputs stay apart' "$(paste -d ' ' "$MVM_TEST_DIR/out" "$MVM_TEST_DIR/err")" 'out err'
equal 'a loop keeps its input' \
    "$(printf 'acme\nacme\n' | while read -r t; do mvm --json tenant info "$t"; done | jq -r .tenant | wc -l)" 2
check 'a reader may leave' test -n "$(mvm events acme --last 100 | head -n 1)"
equal 'the shell is in the machine' "$(echo hostname | mvm shell)" mvm

say 'files and ports'
echo carried >"$MVM_TEST_DIR/carried"
mvm --quiet instance cp "$MVM_TEST_DIR/carried" "$id:/data/carried"
mvm --quiet instance cp "$id:/data/carried" "$MVM_TEST_DIR/back"
equal 'a file goes in and comes back' "$(cat "$MVM_TEST_DIR/back")" carried
guest "$id" sh -c 'mkdir -p /run/www; echo served >/run/www/index.html; setsid httpd -p 80 -h /run/www </dev/null >/dev/null 2>&1'
mvm --quiet instance publish "$id" 18080:80
equal 'a published port answers here' "$(curl -s -m 20 http://127.0.0.1:18080/)" served
mvm --quiet instance unpublish "$id" 18080:80
check 'and not any more' bash -c '! curl -s -m 5 http://127.0.0.1:18080/'

say 'an image in a directory of the caller'
mkdir "$MVM_TEST_DIR/app"
printf '[image]\nname = "app"\n[resources]\nmemory = 144\n' >"$MVM_TEST_DIR/app/Mvmfile.toml"
(cd "$MVM_TEST_DIR" && mvm --quiet pool create acme/app --image ./app)
kept=$(mvm --json pool info acme/app | jq -r '[.instance_resources.mem_mib, .source.image] | join(" ")')
equal 'what it says counts' "${kept%% *}" 144
equal 'later builds find it in the machine' "$(echo "grep -c memory '${kept#* }/Mvmfile.toml'" | mvm shell)" 1
cp -r "$MVM_TEST_DIR/app" "$MVM_TEST_DIR/other"
mvm --quiet pool create acme/other --image "$MVM_TEST_DIR/other"
mvm --quiet pool destroy acme/other --force
mvm --quiet pool update acme/app --image "$MVM_TEST_DIR/app"
equal 'with a later one, what nothing names is gone' "$(echo 'ls /var/lib/mvm/carried' | mvm shell)" \
    "$(basename "$(dirname "${kept#* }")")"

say 'terminals and signals'
terminal 0 33 101 mvm instance exec -ti "$id" -- sh -c 'stty size; read -r x; echo "got $x"' \
    -- 'wait:33 101' 'type:typed' 'wait:got typed'
terminal 130 24 80 mvm instance exec -ti "$id" -- sh -c 'echo here; exec sleep 600' -- 'wait:here' 'key:3'
# Not through the function: its subshell would get the signals.
mvm instance exec "$id" -- sh -c 'echo ready; exec sleep 601' >"$MVM_TEST_DIR/out" & sleeper=$!
within 20 grep -q ready "$MVM_TEST_DIR/out"; kill -INT "$sleeper"
status=0; wait "$sleeper" || status=$?
equal 'Ctrl-C without a terminal' "$status" 130

say 'the local command is killed'
mvm instance exec "$id" -- sh -c 'echo ready; exec sleep 602' >"$MVM_TEST_DIR/out" & sleeper=$!
within 20 grep -q ready "$MVM_TEST_DIR/out"; kill -KILL "$sleeper"; wait "$sleeper" || true
check 'what it ran in the guest ends' within 20 bash -c "! mvm instance exec '$id' -- ps | grep -q '[s]leep 602'"

say 'the machine is killed'
guest "$id" sh -c 'echo kept >/data/file; sync'
kill -KILL "$(emulator)"
began=$(clock)
equal 'the next command brings it back' "$(states acme)" Stopped
note
took "$began" 'the start of the machine'
mvm instance start "$id"
equal 'what was acknowledged is there' "$(guest "$id" cat /data/file)" kept

if [ "$MVM_TEST_TIER" = full ]; then
    say 'stop and start'
    mvm --quiet stop --machine
    equal 'it is off' "$(mvm --json status | jq -r .state)" stopped
    equal 'dev starts it, and the dev VM in it' "$(mvm --json dev </dev/null | jq -c .steps)" '["start_machine","start"]'
    equal 'microVMs were stopped first' "$(states acme)" Stopped
    mvm --quiet stop
    note
fi

say 'destroy'
refused 2 mvm destroy </dev/null
pid=$(emulator)
began=$(clock)
mvm --quiet destroy --force
took "$began" 'destroy'
# One that nobody has waited for yet is as gone.
check 'the emulator is gone' test -z "$(grep -s '^State:' "/proc/$pid/status" | grep -v 'Z (zombie)')"
check 'no file is left' test ! -e "$host" -a ! -e "$run"
check 'no process is left' test -z "$(pgrep -f "$MVM_TEST_DIR/(data|run)" || true)"
check "other people's files are left" test -e "$MVM_DATA_DIR/of-somebody-else"
equal 'and it is known' "$(mvm --json status | jq -r .state)" absent
