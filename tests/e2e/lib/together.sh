# Eight CLIs on one pool at once, random commands: no deadlock, no double VM, invariants hold.
# COMMANDS says how many in all (300 in the long run); SEED makes the choice repeatable.
source /usr/local/lib/mvm-e2e/prelude.sh

mvm --quiet tenant create acme --max-vcpus 64 --max-running 6 --max-warm 4
mvm --quiet pool create acme/workers --image default --cpus 1 --mem 128
mvm --quiet pool build acme/workers
COMMANDS=${COMMANDS:-40} SEED=${SEED:-$RANDOM} python3 - <<'PY'
import collections, json, os, random, re, subprocess, sys, threading, time

seed, total = int(os.environ["SEED"]), int(os.environ["COMMANDS"])
print(f"SEED={seed} COMMANDS={total}", flush=True)
outcomes, wrong, left, lock = collections.Counter(), [], [total], threading.Lock()

def mvm(*args):
    return subprocess.run(["mvm", "--json", *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240)

def names():
    return [i["instance"] for i in json.loads(mvm("instance", "list", "acme/workers").stdout)]

for _ in range(4): mvm("instance", "create", "acme/workers")

def cli(number):
    rng = random.Random(seed * 100 + number)
    while True:
        with lock:
            if left[0] == 0: return
            left[0] -= 1
        verb = rng.choices(["start", "stop", "warm", "sleep", "wake", "create", "destroy", "list", "exec", "scale"],
                           [5, 3, 3, 5, 5, 1, 1, 2, 2, 1])[0]
        try:
            known = names()
            target = rng.choice(known) if known else None
            if verb == "create": done = mvm("instance", "create", "acme/workers")
            elif verb == "list": done = mvm("instance", "list", "acme")
            elif verb == "scale": done = mvm("pool", "scale", "acme/workers", "--running", str(rng.randint(0, 2)))
            elif target is None: continue
            elif verb == "exec": done = mvm("instance", "exec", target, "--", "true")
            elif verb == "destroy": done = mvm("instance", "destroy", target, "--force")
            else: done = mvm("instance", verb, target)
        except subprocess.TimeoutExpired:
            wrong.append(f"{verb} {target}: no answer in 240 s: a deadlock"); return
        outcomes[verb, done.returncode] += 1
        # 0 done, 3 gone meanwhile, 4 not in this state, 5 quota; exec: 125 for mvm's own failure.
        if done.returncode not in ((0, 3, 4, 5) if verb != "exec" else (0, 125)):
            died = re.search(r"mvm instance logs (\S+)", done.stderr)
            logs = subprocess.run(["mvm", "instance", "logs", "--last", "30", died[1]], capture_output=True, text=True).stdout if died else ""
            wrong.append(f"{verb} {target}: exit {done.returncode}: {done.stderr[-600:]}\n{logs}")

threads = [threading.Thread(target=cli, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(outcomes.items()))
if wrong: sys.exit("FAILED: " + "\n".join(wrong))

instances = json.loads(mvm("instance", "list", "acme/workers").stdout)
vmms = collections.Counter()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if open(f"/proc/{pid}/comm").read().strip() == "firecracker":
            vmms[open(f"/proc/{pid}/cgroup").read().strip().split("/")[-2]] += 1
    except OSError: pass
expected = {i["instance"].split("/")[-1] for i in instances if i["state"] in ("Running", "Warm")}
if dict(vmms) != {e: 1 for e in expected}: sys.exit(f"FAILED: VMMs {dict(vmms)}, expected one for each of {expected}")
for key in ("address", "uid"):
    values = [i[key] for i in instances]
    if len(set(values)) != len(values): sys.exit(f"FAILED: two instances share a {key}: {values}")
if json.loads(mvm("net", "verify").stdout)["findings"]: sys.exit("FAILED: " + mvm("net", "verify").stdout)
print("ok:", {i["instance"]: i["state"] for i in instances})
PY
mvm tenant destroy acme --force
clean
