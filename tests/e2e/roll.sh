# tier: ci
# minutes: 4
# A pool's instances are replaced by its current build, one after the other, and return when it is no good.
source /usr/local/lib/mvm-e2e/prelude.sh

work=/var/lib/images-of-the-test; mkdir -p "$work"
python3 -W ignore /usr/local/lib/mvm-e2e/oci.py workers "$work" one two fails silent
current() { mvm --json pool info acme/app | jq -r .current; }
# Ids with the beginning of their image, in order.
images() { mvm --json instance list acme/app | jq -r --arg s "$1" '[.[] | select(.state == $s) | "\(.instance | split("/")[2])=\(.image[0:8])"] | sort | join(" ")'; }
ids() { mvm --json instance list acme/app | jq -r '[.[] | "\(.instance) \(.address)"] | sort | join(",")'; }
build() { mvm --quiet pool update acme/app --image "oci-archive:$work/$1.tar"; mvm --quiet pool build acme/app; }

say 'two that run and one that sleeps'
mvm tenant create acme
mvm pool create acme/app --image "oci-archive:$work/one.tar" --cpus 1 --mem 128 --data-disk 32 --readiness tcp:7
mvm --quiet pool update acme/app --readiness none
equal 'a readiness can be taken away' "$(mvm --json pool info acme/app | jq -r .readiness.kind)" null
mvm --quiet pool update acme/app --readiness worker-ready
mvm pool build acme/app
one=$(current)
mvm pool scale acme/app --running 2 --sleeping 1
before=$(ids)
mapfile -t running < <(mvm --json instance list acme/app | jq -r '.[] | select(.state == "Running") | .instance' | sort)
asleep=$(mvm --json instance list acme/app | jq -r '.[] | select(.state == "Sleeping") | .instance')

say 'a good build'
build two
two=$(current)
equal 'a dry run names them' "$(mvm --json --dry-run pool roll acme/app | jq -r '[.acts[].subject] | sort | join(" ")')" "${running[*]}"
mvm pool roll acme/app --soak 1 >/tmp/roll 2>&1 & roll=$!
gone() { [ "$(mvm --json instance list acme/app | jq '[.[] | select(.state == "Running")] | length')" -lt 2 ]; }
within 30 gone || fail "nothing is replaced: $(cat /tmp/roll)"
kill -9 "$roll"; wait "$roll" 2>/dev/null || true
mvm pool roll acme/app --soak 1
equal 'all that ran run the new build' "$(images Running)" "$(for i in "${running[@]}"; do echo "${i##*/}=${two:0:8}"; done | xargs)"
equal 'each in its place' "$(ids)" "$before"
for i in "${running[@]}"; do
    equal "what is on the data disk of $i stays" "$(guest "$i" cat /data/seen | uniq | xargs)" 'one two'
done
equal 'who sleeps keeps its build' "$(images Sleeping)" "${asleep##*/}=${one:0:8}"
equal 'a second one has nothing to do' "$(mvm --json pool roll acme/app | jq -c .changes)" '[]'

say 'what is needed is kept'
revisions=/var/lib/mvm/tenants/acme/pools/app/artifacts/revisions
mvm --quiet pool gc acme/app --keep 1
check 'the build of who sleeps stays' test -e "$revisions/$one"
mvm instance wake "$asleep"
equal 'it woke as what it was' "$(guest "$asleep" cat /data/seen | xargs)" one
mvm instance destroy "$asleep" --force
mvm --quiet pool gc acme/app --keep 1
check 'what nothing uses goes' test ! -e "$revisions/$one" -a -e "$revisions/$two"

say 'a bad build'
for bad in fails:'ended with code 3' silent:'did not say that it is ready'; do
    build "${bad%%:*}"
    check "the build ${bad%%:*} is current" test "$(current)" != "$two"
    refused 1 mvm pool roll acme/app --timeout 10 --soak 1
    case "$REFUSAL" in *"${bad#*:}"*) ;; *) fail "no word of why: $REFUSAL" ;; esac
    equal 'the former build is current again' "$(current)" "$two"
    equal 'and runs' "$(images Running)" "$(for i in "${running[@]}"; do echo "${i##*/}=${two:0:8}"; done | xargs)"
    case "$(mvm --json events acme | jq -r '.[] | select(.event == "PoolRollFailed") | .reason')" in
        *"${bad#*:}"*) echo 'ok: the audit log says why' ;;
        *) fail 'the audit log does not say why' ;;
    esac
done
equal 'only one was there, both times' "$(for i in "${running[@]}"; do guest "$i" cat /data/seen | grep -cE 'fails|silent' || true; done | sort | xargs)" '0 2'

mvm tenant destroy acme --force
clean
