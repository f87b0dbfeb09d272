# kill -9 of CLI, shim and VMM at random moments of start, sleep, wake, stop and destroy: the next
# command finds the truth and converges. MOMENTS says how many; SEED makes a run repeatable.
source /usr/local/lib/mvm-e2e/prelude.sh

mvm --quiet tenant create acme
mvm --quiet pool create acme/workers --image default --cpus 1 --mem 128
mvm --quiet pool build acme/workers
MOMENTS=${MOMENTS:-6} SEED=${SEED:-$RANDOM} python3 - <<'PY'
import json, os, random, signal, subprocess, sys, time

seed, moments = int(os.environ["SEED"]), int(os.environ["MOMENTS"])
print(f"SEED={seed} MOMENTS={moments}", flush=True)
rng = random.Random(seed)

def mvm(*args, ok=(0,)):
    done = subprocess.run(["mvm", "--json", *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=180)
    if ok is not None and done.returncode not in ok:
        sys.exit(f"FAILED: mvm {' '.join(args)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done

def show(instance):
    found = [i for i in json.loads(mvm("instance", "list", "acme/workers").stdout) if i["instance"] == instance]
    return found[0] if found else None

def pids(name, instance):
    """Pids of a program that bears the instance's id on its command line or cgroup."""
    short, found = instance.split("/")[-1], []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            comm = open(f"/proc/{pid}/comm").read().strip()
            if comm.startswith(name) and short in open(f"/proc/{pid}/cgroup").read():
                found.append(int(pid))
        except OSError:
            pass
    return found

VERBS = {"start": "Ready Stopped", "sleep": "Running Warm", "wake": "Sleeping Warm", "stop": "Running Warm Sleeping", "destroy": "Ready Running Warm Sleeping Stopped"}
DURATION = {}  # how long each verb takes undisturbed

def bring(instance, state):
    for _ in range(4):
        now = show(instance)["state"]
        if now == state: return
        step = {"Running": {"Ready": "start", "Stopped": "start", "Sleeping": "wake", "Warm": "wake"},
                "Warm": {"Running": "warm"}, "Sleeping": {"Running": "sleep", "Warm": "sleep"},
                "Stopped": {"Running": "stop", "Warm": "stop", "Sleeping": "stop"}}[state].get(now)
        mvm("instance", step or ("wake" if now in ("Sleeping", "Warm") else "start"), instance)
    sys.exit(f"FAILED: {instance} does not reach {state}")

def fresh():
    return json.loads(mvm("instance", "create", "acme/workers").stdout)["instance"]

instance = fresh()
for verb, source in [("start", "Ready"), ("sleep", "Running"), ("wake", "Sleeping"), ("stop", "Running")]:
    began = time.monotonic(); mvm("instance", verb, instance); DURATION[verb] = time.monotonic() - began
DURATION["destroy"] = DURATION["stop"]
print("undisturbed:", {v: round(d, 2) for v, d in DURATION.items()}, flush=True)

# Every verb with every victim, in any order, before any pair comes twice.
PAIRS = [(verb, victim) for verb in VERBS for victim in ("cli", "firecracker", "mvm-shim")]
# A page server is there from the first wake on.
PAIRS += [(verb, "mvm-pager") for verb in ("sleep", "wake", "stop")]
chosen = []
while len(chosen) < moments: chosen += rng.sample(PAIRS, len(PAIRS))

for moment, (verb, victim) in enumerate(chosen[:moments]):
    if show(instance) is None: instance = fresh()
    sources = [s for s in VERBS[verb].split() if s != "Ready"]
    if victim != "cli" and verb in ("stop", "destroy"):
        sources = [s for s in sources if s in ("Running", "Warm")]
    source = rng.choice(sources)
    bring(instance, source)
    if source in ("Running", "Warm"):
        if source == "Warm": mvm("instance", "wake", instance)
        mvm("instance", "exec", instance, "--", "sh", "-c", f"echo {moment} >/run/mark")
        if source == "Warm": mvm("instance", "warm", instance)
    delay = rng.uniform(0, DURATION[verb])
    cli = subprocess.Popen(["mvm", "instance", verb, instance] + (["--force"] if verb == "destroy" else []),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    time.sleep(delay)
    hit = [cli.pid] if victim == "cli" else pids(victim, instance)
    while not hit and cli.poll() is None: hit = pids(victim, instance)
    for pid in hit:
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass
    said = cli.communicate(timeout=120)[0].strip().splitlines()
    after = show(instance)
    label = f"{moment}: {verb} from {source}, {victim} {hit} at {delay:.2f}s, exit {cli.returncode}"
    print(label, "->", after and (after["state"], after.get("last_failure")), said[-1:] , flush=True)
    if after is None:
        if verb != "destroy": sys.exit("FAILED: the instance is gone")
        continue
    # The same command again either does it or says that it is done; then the whole cycle works.
    again = mvm("instance", verb, instance, *(["--force"] if verb == "destroy" else []), ok=(0, 4))
    after = show(instance)
    if verb == "destroy":
        if after is not None: sys.exit(f"FAILED: destroy did not converge: {again.stdout}{again.stderr}")
        continue
    if after["state"] == "Stopped" and verb in ("sleep", "wake") and not after.get("last_failure"):
        sys.exit(f"FAILED: {instance} is Stopped without a reason")
    alive = len(pids("firecracker", instance))
    if alive != (1 if after["state"] in ("Running", "Warm") else 0):
        sys.exit(f"FAILED: {after['state']} with {alive} VMM processes")
    bring(instance, "Running")
    if pids("firecracker", instance) == []: sys.exit("FAILED: Running without a VMM")
    mvm("instance", "exec", instance, "--", "true")

findings = json.loads(mvm("net", "verify").stdout)["findings"]
if findings: sys.exit(f"FAILED: {findings}")
if show(instance) is not None: mvm("instance", "destroy", instance, "--force")
PY
say 'a dead VMM is reported with its reason'
id=$(mvm --json instance create acme/workers | jq -r .instance)
mvm --quiet instance start "$id"
pkill -KILL -x firecracker
gone() { [ "$(state "$id")" = Stopped ]; }
within 10 gone || fail 'the dead VMM is not noticed'
equal 'its reason' "$(mvm --json instance list acme/workers | jq -r '.[0].last_failure.reason')" 'the VMM was killed by signal 9'

say 'a dead shim takes no VM with it, is reported and replaced'
mvm --quiet instance start "$id"
vmm=$(pgrep -x firecracker); shim=$(pgrep -x mvm-shim)
kill -KILL "$shim"
equal 'the guest answers' "$(guest "$id" echo alive)" alive
mvm instance warm "$id"; mvm instance wake "$id"
equal 'the same VMM' "$(pgrep -x firecracker)" "$vmm"
check 'another shim' test -n "$(pgrep -x mvm-shim)" -a "$(pgrep -x mvm-shim)" != "$shim"
equal 'it runs as the instance' "$(stat -c %u /proc/"$(pgrep -x mvm-shim)")" "$(mvm --json instance list "$id" | jq '.[0].uid')"
equal 'the audit log says so, once' "$(mvm --json events acme --last 100 | jq --arg i "${id##*/}" '[.[] | select(.event == "ShimLost" and .instance == $i)] | length')" 1
mvm instance sleep "$id"; mvm instance wake "$id"
equal 'it sleeps and wakes all the same' "$(guest "$id" echo alive)" alive

mvm tenant destroy acme --force
clean
