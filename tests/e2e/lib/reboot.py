"""Commands at work while the host loses its power; then nothing that was acknowledged is lost, and
nothing half-done cannot be finished or removed by repeating the command.

Called once a boot: reboot.py BOOT RESETS OPERATIONS. What was asked and what was acknowledged is in
/root/reboot, written through to the disk before it counts."""
import json, os, random, re, subprocess, sys, threading, time

BOOT, RESETS, OPERATIONS = (int(word) for word in sys.argv[1:4])
HERE = "/root/reboot"
REBOOTED = "the host rebooted"
began = time.monotonic()

def fail(what): sys.exit(f"FAILED: {what}")
def say(what): print(f"{time.monotonic() - began:5.1f} {what}", flush=True)

def durable(path, text, mode="w"):
    with open(path, mode) as file:
        file.write(text); file.flush(); os.fsync(file.fileno())
    where = os.open(HERE, os.O_RDONLY); os.fsync(where); os.close(where)

def run(*args, ok=(0,)):
    done = subprocess.run(["mvm", "--json", *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240)
    if ok is not None and done.returncode not in ok:
        fail(f"mvm {' '.join(args)} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr}")
    return done
def ask(*args): return json.loads(run(*args).stdout)
def listed(where): return {one["instance"]: one for one in ask("instance", "list", where)}
def guest(instance, script): return run("instance", "exec", instance, "--", "sh", "-c", script).stdout.strip()

def bring(instance, state):
    for _ in range(4):
        now = listed(instance)[instance]["state"]
        if now == state: return
        step = {"Ready": "start", "Stopped": "start", "Sleeping": "wake", "Warm": "wake"}.get(now)
        if now in ("Running", "Warm") and state != "Running":
            step = {"Warm": "warm", "Sleeping": "sleep", "Stopped": "stop"}[state]
        run("instance", step, instance)
    fail(f"{instance} does not reach {state}")

def save(): durable(f"{HERE}/model.new", json.dumps(model)); os.rename(f"{HERE}/model.new", f"{HERE}/model"); durable(f"{HERE}/saved", "")

# --- what is at work when the power goes ---------------------------------------------------------

AFTER = {"start": "Running", "sleep": "Sleeping", "wake": "Running", "warm": "Warm", "stop": "Stopped", "destroy": None}
FROM = {"start": ["Stopped"], "sleep": ["Running", "Warm"], "wake": ["Sleeping", "Warm"], "warm": ["Running"], "stop": ["Running", "Warm", "Sleeping"], "destroy": ["Running", "Sleeping", "Stopped"]}

def journal(entry):
    with lock: durable(f"{HERE}/journal", json.dumps(entry) + "\n", "a")

def work(number, args):
    """One command: asked, and acknowledged when it ended, in the journal."""
    journal({"op": number, "args": args})
    out = f"{HERE}/out.{number}"
    with open(out, "w") as file:
        code = subprocess.Popen(["mvm", "--json", *args], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True).wait()
    journal({"op": number, "code": code, "out": open(out).read()})

def choose():
    """Commands for this round, each on a subject of its own; every verb in turn."""
    chosen, free = [], [i for i in model["instances"]]
    rng.shuffle(free)
    for _ in range(OPERATIONS):
        verb = model["verbs"].pop(0)
        model["verbs"].append(verb)
        if verb in AFTER:
            if not free: free.append(fresh())
            instance = free.pop()
            prepare(instance, rng.choice(FROM[verb]))
            chosen.append(["instance", verb, instance] + (["--force"] if verb == "destroy" else []))
        elif verb == "instance create": chosen.append(["instance", "create", "acme/workers"])
        elif verb == "pool build": chosen.append(["pool", "build", "beta/other"])
        elif verb == "pool scale": chosen.append(["pool", "scale", "beta/some", "--running", str(rng.choice([n for n in range(3) if n != model["scale"]]))])
        elif verb == "pool create": chosen.append(["pool", "create", f"beta/p{BOOT}", "--image", "default", "--cpus", "1", "--mem", "128"])
        elif verb == "tenant create": chosen.append(["tenant", "create", f"t{BOOT}"])
        elif verb == "tenant destroy":
            name = f"gone{BOOT}"
            run("tenant", "create", name); run("pool", "create", f"{name}/p", "--image", "default", "--cpus", "1", "--mem", "128")
            chosen.append(["tenant", "destroy", name, "--force"])
    return chosen

def fresh():
    instance = ask("instance", "create", "acme/workers")["instance"]
    model["instances"][instance] = {"state": "Ready", "memory": None, "data": None}
    return instance

def prepare(instance, state):
    known = model["instances"][instance]
    if known["state"] == state and known["memory"]: return
    bring(instance, "Running")
    mark = f"{BOOT}-{rng.randrange(10**6)}"
    guest(instance, f"echo {mark} >/run/mark; echo {mark} >/data/mark; sync")
    bring(instance, state)
    known.update(state=state, memory=mark, data=mark)

def at_work():
    chosen = choose()
    if BOOT == 0:
        for state in ("Sleeping", "Running", "Warm") if RESETS > 1 else ("Sleeping", "Running"):
            if all(known["state"] != state for name, known in model["instances"].items() if not any(name in args for args in chosen)):
                prepare(fresh(), state)
    model["chosen"] = chosen
    durable(f"{HERE}/journal", "")
    save()
    delay = rng.uniform(0.05, 1.0) if rng.random() < 0.4 else rng.uniform(0.5, 8.0)
    say(f"at work: {[' '.join(args) for args in chosen]}, the power goes after {delay:.2f} s")
    for number, args in enumerate(chosen): threading.Thread(target=work, args=(number, args), daemon=True).start()
    time.sleep(delay)
    os._exit(0)

# --- what is there when it is back ---------------------------------------------------------------

def read_journal():
    """For each command whether it was asked and how it was acknowledged."""
    asked, done = {}, {}
    for line in open(f"{HERE}/journal"):
        try: entry = json.loads(line)
        except ValueError: continue
        if "args" in entry: asked[entry["op"]] = entry["args"]
        else: done[entry["op"]] = entry
    flight = [args for op, args in asked.items() if op not in done]
    said = [(asked[op], entry["code"], entry["out"]) for op, entry in done.items()]
    say(f"acknowledged: {[(' '.join(a), c) for a, c, _ in said]}; cut off: {[' '.join(a) for a in flight]}")
    return flight, said

def verb_of(args): return args[1] if args[0] == "instance" and args[1] in AFTER else " ".join(args[:2])

def apply(said):
    """Acknowledged commands change what must be there."""
    for args, code, out in said:
        verb = verb_of(args)
        if code != 0: fail(f"mvm {' '.join(args)} ended with {code} before the power went: {out}")
        if verb in AFTER:
            known = model["instances"][args[2]]
            if AFTER[verb] is None: del model["instances"][args[2]]; model["gone"].append(args[2]); continue
            if verb in ("stop", "start"): known["memory"] = None
            known["state"] = AFTER[verb]
        elif verb == "instance create": model["instances"][json.loads(out)["instance"]] = {"state": "Ready", "memory": None, "data": None}
        elif verb == "pool scale": model["scale"] = int(args[4])
        elif verb == "pool build": model["built"] = True
        elif verb == "pool create": model["pools"].append(args[2])
        elif verb == "tenant create": model["tenants"].append(args[2])
        elif verb == "tenant destroy": model["lost tenants"].append(args[2])

def first_command():
    """Whatever comes first after a boot works."""
    sleeping = [i for i, known in model["instances"].items() if known["state"] == "Sleeping" and i not in model["in flight"]]
    stopped = [i for i, known in model["instances"].items() if known["state"] in ("Running", "Stopped") and i not in model["in flight"]]
    firsts = [["instance", "list"], ["net", "verify"], ["node", "info"]]
    if sleeping: firsts.append(["instance", "wake", sleeping[0]])
    if stopped: firsts.append(["instance", "start", stopped[0]])
    first = firsts[model["first"] % len(firsts)] if RESETS > 1 else firsts[3 if sleeping else 0]
    model["first"] += 1
    say(f"first command: {' '.join(first)}")
    run(*first)
    return first

def verify(flight):
    first = first_command()
    touched = first[2] if len(first) > 2 else None
    cut = {args[2]: args[1] for args in flight if verb_of(args) in AFTER}
    there = listed("acme")
    for instance in model["gone"]:
        if instance in there: fail(f"{instance} was destroyed and is there again")
    rest = {"Running": "Stopped", "Warm": "Stopped"}
    for instance, known in list(model["instances"].items()):
        now, verb = there.get(instance), cut.get(instance)
        may = {rest.get(known["state"], known["state"])}
        may |= {"start": {"Stopped"}, "sleep": {"Sleeping"}, "wake": {"Stopped"}, "stop": {"Stopped"}, "destroy": {None, "Stopped"}}.get(verb, set())
        if instance == touched: may = {"Running"}
        state = now and now["state"]
        if state not in may: fail(f"{instance} was {known['state']}, {verb} was cut off, and it is {state}; it may be {may}")
        reason = ((now or {}).get("last_failure") or {}).get("reason", "")
        if state == "Stopped" and known["state"] in ("Running", "Warm") and verb not in ("stop", "destroy") and REBOOTED not in reason:
            fail(f"{instance} was {known['state']} and is Stopped because of {reason!r}")
        if state == "Stopped" and known["state"] == "Sleeping" and verb == "wake" and not ("lost while waking" in reason and REBOOTED in reason):
            fail(f"the wake of {instance} was cut off and it is Stopped because of {reason!r}")
        if verb:
            run(*["instance", verb, instance], *(["--force"] if verb == "destroy" else []), ok=(0, 3) if verb == "destroy" else (0, 4))
            if verb == "destroy":
                if instance in listed("acme"): fail(f"the repeated destroy of {instance} leaves it there")
                del model["instances"][instance]; model["gone"].append(instance); continue
            state = listed("acme")[instance]["state"]
        woke = state == "Sleeping" or (instance == touched and first[1] == "wake")
        look = verb or known["state"] in ("Sleeping", "Running") or touched == instance
        if look:
            bring(instance, "Running")
            if known["data"]:
                marks = guest(instance, "cat /data/mark; cat /run/mark 2>/dev/null || echo none").split()
                if marks[0] != known["data"]: fail(f"{instance} has {marks[0]} on its disk, not {known['data']}")
                if woke and known["memory"] and verb != "start" and marks[1] != known["memory"]: fail(f"{instance} woke with {marks[1]} in memory, not {known['memory']}")
        now = listed("acme")[instance]
        known["state"] = now["state"]
        if now["state"] != "Sleeping": known["memory"] = None
        say(f"ok: {instance} ({known['state']}{', ' + verb + ' was cut off' if verb else ''}{': ' + reason if reason else ''})")
    others = set(there) - set(model["instances"]) - set(model["gone"])
    made = sum(1 for args in flight if verb_of(args) == "instance create")
    if len(others) > made: fail(f"{others} came from nowhere")
    for instance in others: run("instance", "destroy", instance, "--force")
    verify_others(flight)

def verify_others(flight):
    cut = {verb_of(args): args for args in flight}
    for tenant in model["tenants"]:
        run("tenant", "info", tenant)
        if not os.path.isfile(f"/var/lib/mvm/keys/{tenant}.key"): fail(f"the key of {tenant} is lost")
    for tenant in model["lost tenants"]: run("tenant", "info", tenant, ok=(3,))
    for pool in model["pools"]: run("pool", "info", pool)
    scaled = ask("pool", "info", "beta/some")["desired_counts"]["running"]
    asked = int(cut["pool scale"][4]) if "pool scale" in cut else model["scale"]
    if scaled not in (model["scale"], asked): fail(f"beta/some asks for {scaled}, acknowledged {model['scale']}, asked {asked}")
    if model["built"] and not ask("pool", "info", "beta/other")["current"]: fail("the build of beta/other is lost")
    for verb, args in cut.items():
        if verb not in AFTER and verb != "instance create": run(*args, ok=(0, 4) if "create" in verb else (0, 3) if "destroy" in verb else (0,))
    if "pool scale" in cut: model["scale"] = asked
    if "tenant create" in cut: run("tenant", "info", cut["tenant create"][2]); model["tenants"].append(cut["tenant create"][2])
    if "pool build" in cut: model["built"] = True
    if model["scale"] != scaled or "pool scale" in cut:
        run("pool", "scale", "beta/some", "--running", str(model["scale"]))
        running = sum(1 for one in listed("beta/some").values() if one["state"] == "Running")
        if running != model["scale"]: fail(f"{running} of beta/some run, not {model['scale']}")
    invariants()

def invariants():
    instances = ask("instance", "list")
    for key in ("address", "uid"):
        values = [(one[key], one["instance"].split("/")[0] if key == "address" else "") for one in instances]
        if len(set(values)) != len(values): fail(f"two instances share a {key}")
    alive = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/comm").read().strip() == "firecracker": alive.add(open(f"/proc/{pid}/cgroup").read().strip().split("/")[-2])
        except OSError: pass
    wanted = {one["instance"].split("/")[-1] for one in instances if one["state"] in ("Running", "Warm")}
    if alive != wanted: fail(f"VMMs of {alive}, expected those of {wanted}")
    jails = "/var/lib/mvm/jails/firecracker"
    left = set(os.listdir(jails) if os.path.isdir(jails) else []) - wanted - {one["instance"].split("/")[-1] for one in instances if one["state"] == "Stopped" and one["last_failure"]}
    if left: fail(f"jails of the former boot are left: {left}")
    findings = ask("net", "verify")["findings"]
    if findings: fail(f"net verify: {findings}")
    # The documented files follow a commit; what the power took of them comes back with the next one.
    for pool in ["acme/workers", "beta/other"]: run("instance", "destroy", ask("instance", "create", pool)["instance"], "--force")
    for tenant in ["acme", "beta"]:
        stored = [one["hash"] for one in ask("events", tenant, "--last", "100000")]
        kept = [json.loads(line)["hash"] for line in open(f"/var/lib/mvm/tenants/{tenant}/audit.log")]
        if stored[-len(kept):] != kept[-len(stored):]: fail(f"the audit log of {tenant} has {len(kept)} lines, the store {len(stored)}")
    say("ok: invariants")

# -------------------------------------------------------------------------------------------------

lock = threading.Lock()
if BOOT == 0:
    os.makedirs(HERE, exist_ok=True)
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    verbs = ["sleep", "start", "tenant create", "wake", "stop", "instance create", "pool scale", "destroy", "pool build", "warm", "tenant destroy", "pool create"]
    random.Random(seed).shuffle(verbs)
    if RESETS == 1: verbs = ["sleep", "tenant create", "instance create"] + verbs
    model = {"seed": seed, "instances": {}, "gone": [], "tenants": ["acme", "beta"], "lost tenants": [], "pools": [], "scale": 0, "built": False, "verbs": verbs, "first": seed, "chosen": [], "in flight": []}
    print(f"SEED={seed}", flush=True)
    rng = random.Random(seed)
    small = ["--image", "default", "--cpus", "1", "--mem", "128"]
    for tenant in model["tenants"]: run("tenant", "create", tenant, "--max-vcpus", "64", "--max-pools", "64", "--max-instances-per-pool", "64")
    run("pool", "create", "acme/workers", *small, "--data-disk", "16"); run("pool", "build", "acme/workers")
    run("pool", "create", "beta/some", *small); run("pool", "build", "beta/some")
    run("pool", "create", "beta/other", *small)
    say("ready")
else:
    model = json.load(open(f"{HERE}/model"))
    rng = random.Random(model["seed"] * 1000 + BOOT)
    say(f"boot {BOOT}")
    flight, said = read_journal()
    apply(said)
    model["in flight"] = [word for args in flight for word in args]
    verify(flight)
if BOOT < RESETS: at_work()
