"""Types every line of wrong-inputs.txt: each is refused with the exit code and the word beside it, in the
documented form, and changes nothing. Environment: SEED SAMPLE RUNNING WARM SLEEPING STOPPED READY CREATED T."""
import hashlib, json, os, random, re, shlex, sqlite3, subprocess, sys

HERE, DATA, T = os.path.dirname(os.path.abspath(__file__)), "/var/lib/mvm", os.environ["T"]
failed, typed = [], 0

def tree(top):
    """Every name below a directory with what it is, without the store's own files and the VMM's log."""
    lines = []
    for where, directories, files in os.walk(top):
        directories.sort()
        for name in sorted(files + directories):
            path = os.path.join(where, name)
            # Firecracker logs each question that it is asked; the audit log's file follows the store.
            if name.startswith("state.db") or name in ("fc.log", "firecracker.log", "console.log", "audit.log"): continue
            stat = os.lstat(path)
            lines.append(f"{path} {stat.st_mode:o} {stat.st_uid} {stat.st_size if name in files else 0} {stat.st_mtime_ns if name in files else 0}")
    return lines

def store(path):
    if not os.path.exists(path): return []
    base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    # A build that fails is told in the audit log, also one that was never possible.
    told = lambda row: '"event":"PoolBuildFailed"' in str(row)
    try: return [row for table in ("record", "claim", "event") for row in base.execute(f"SELECT * FROM {table} ORDER BY 1, 2") if not told(row)]
    except sqlite3.DatabaseError as error: return [str(error)]
    finally: base.close()

def state(extra=()):
    """Store and directories: what every line is checked against."""
    return {"store": store(f"{DATA}/state.db"), "data": tree(DATA), "run": [l for l in tree("/run/mvm") if "/locks/" not in l and "firewall.json" not in l], **{d: tree(d) for d in extra}}

def kernel():
    """Tables, devices, rules, processes and mounts: slower, so looked at once a section."""
    tell = lambda *argv: subprocess.run(argv, capture_output=True, text=True).stdout
    # Counters and lifetimes move by themselves.
    return {
        "nft": re.sub(r"counter packets \d+ bytes \d+", "", tell("nft", "list", "ruleset")), "links": tell("ip", "-br", "link"), "rules": tell("ip", "rule"),
        "mounts": open("/proc/self/mountinfo").read(),
        "processes": sorted(l for l in tell("ps", "-eo", "pid,comm").splitlines() if re.search("firecracker|mvm|jailer", l)),
    }

def differ(before, after):
    said = []
    for key in before:
        if before[key] == after[key]: continue
        one, two = (x if isinstance(x, list) else x.splitlines() for x in (before[key], after[key]))
        said.append(f"{key}: gone {[l for l in one if l not in two][:3]}, new {[l for l in two if l not in one][:3]}")
    return said

def type_line(number, want, word, line):
    global typed
    typed += 1
    words = shlex.split(os.path.expandvars(line))
    environment = dict(os.environb)
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, value = words.pop(0).split("=", 1)
        environment[name.encode()] = value.encode().decode("unicode_escape").encode("latin-1")
    argv = [w if w != "<empty>" else "" for w in words]
    if argv[0] == "nobody": argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv[1:]]
    before = state()
    try: done = subprocess.run(argv, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=30)
    except subprocess.TimeoutExpired: failed.append(f"{number}: {line}: no answer in 30 s"); return
    said = done.stderr.decode(errors="replace")
    problems = []
    if done.returncode != want: problems.append(f"exit code {done.returncode}, not {want}")
    first = said.splitlines()[0] if said else ""
    if not first.startswith("mvm: error: "): problems.append("the first line is not the documented form")
    for other in said.splitlines()[1:]:
        if not re.match(r"  (because|try): |    ", other): problems.append(f"a line of no form: {other!r}")
    if word.lower() not in said.lower(): problems.append(f"{word!r} is not in the message")
    if "panicked" in said: problems.append("a panic")
    problems += differ(before, state())
    if problems: failed.append(f"{number}: {line}\n    {said.strip()[:300]}\n    " + "\n    ".join(problems))

def make_files():
    def put(name, data):
        with open(f"{T}/{name}", "wb") as file: file.write(data if isinstance(data, bytes) else data.encode())
    put("unknown.toml", 'data_dri = "/x"\n'); put("type.toml", "production = 1\n"); put("broken.toml", "= nothing\n")
    put("relative.toml", 'data_dir = "here"\n'); put("negative.toml", "lock_wait_seconds = -1\n"); put("nul.toml", b'data_dir = "/x\0y"\n')
    put("latin.toml", b'firecracker = "\xff\xfe"\n'); put("twice.toml", 'production = true\nproduction = false\n'); put("gc.toml", "[gc]\nkeep = 3\n")
    put("short.toml", "lock_wait_seconds = 1\n"); put("version.toml", 'firecracker = "newest"\n'); put("big.toml", "# " + "x" * (10 << 20) + "\nnonsense = 1\n")
    os.makedirs(f"{T}/directory", exist_ok=True); put("file", "text")
    tenant = {"tenant_id": "a", "network": {"tenant_net_id": 1, "ipv4_subnet": "10.240.1.0/24"}}
    pool = {"pool_id": "p", "image": "default", "instance_resources": {"vcpus": 1, "mem_mib": 128}}
    top = {"schema_version": 1, "node_id": "local", "tenants": []}
    document = lambda **more: json.dumps({**top, **more})
    with_pool = lambda **more: document(tenants=[{**tenant, "pools": [{**pool, **more}]}])
    put("deep.json", "[" * 100000 + "]" * 100000); put("deep-objects.json", '{"tenants":' * 5000 + "1" + "}" * 5000)
    put("huge-number.json", '{"schema_version": 1e400}'); put("long-number.json", '{"schema_version": ' + "9" * 100000 + "}")
    put("twice.json", '{"schema_version": 1, "schema_version": 1}'); put("twice-inside.json", document(tenants=[])[:-1] + ', "tenants": [{"tenant_id": "a", "tenant_id": "b"}]}')
    put("nul.json", b'{"node_id": "a\0b"}'); put("utf8.json", b'{"node_id": "\xff"}'); put("surrogate.json", '{"node_id": "\\ud800"}')
    put("big.json", '{"node_id": "' + "x" * (17 << 20) + '"}'); put("ten-mib.json", document()[:-1] + ', "junk": "' + "x" * (10 << 20) + '"}')
    put("empty.json", ""); put("list.json", "[]"); put("text.json", '"x"'); put("tail.json", document() + " x"); put("half.json", document()[:20])
    put("schema.json", document(schema_version=2)); put("no-node.json", '{"schema_version": 1, "tenants": []}'); put("unknown.json", document(tenant=[]))
    put("other-node.json", document(node_id="somebody-else"))
    put("unknown-deep.json", with_pool(sleep_policy={"warm_after": 1})); put("two-sources.json", with_pool(flake_ref="github:a/b")); put("no-memory.json", with_pool(instance_resources={"vcpus": 1, "mem_mib": 0}))
    put("counts.json", with_pool(desired_counts={"running": 101})); put("quota.json", with_pool(desired_counts={"running": 9})); put("negative.json", with_pool(desired_counts={"running": -1})); put("fraction.json", with_pool(desired_counts={"running": 1.5}))
    put("enum.json", with_pool(seccomp_policy="loose")); put("role.json", with_pool(role="boss")); put("reserved.json", document(tenants=[{**tenant, "tenant_id": "local"}]))
    put("overlap.json", document(tenants=[tenant, {"tenant_id": "b", "network": {"tenant_net_id": 2, "ipv4_subnet": "10.240.0.0/16"}}])); put("same.json", document(tenants=[tenant, tenant]))
    put("route.json", with_pool(role="gateway", routing_table={"routes": [{"name": "r", "match_rule": {}, "target": {"pool_id": "x"}}]})); put("worker-route.json", with_pool(routing_table={"routes": []}))

def special_places():
    """Data directories that cannot be used. Their own content is compared, too."""
    def sh(text): subprocess.run(["bash", "-ec", text], check=True, stdout=subprocess.DEVNULL)
    sh(f"truncate -s 4M {T}/small.img; mkfs.ext4 -q -O ^has_journal {T}/small.img; mkdir {T}/full {T}/readonly {T}/corrupt {T}/newer {T}/nodb; mount -o loop {T}/small.img {T}/full")
    for place in ("full", "readonly", "corrupt", "newer"): sh(f"mvm --data-dir {T}/{place} tenant list; mvm --data-dir {T}/{place} node info")
    sh(f"dd if=/dev/zero of={T}/full/filler bs=4k 2>/dev/null || true")
    sh(f"mount --bind {T}/readonly {T}/readonly; mount -o remount,ro,bind {T}/readonly")
    sh(f"rm -f {T}/corrupt/state.db-*; head -c 20000 /dev/urandom >{T}/corrupt/state.db")
    sh(f"sqlite3 {T}/newer/state.db 'PRAGMA user_version = 999'; mkdir {T}/nodb/state.db")

def undo_places(): subprocess.run(["umount", f"{T}/full", f"{T}/readonly"])

make_files(); special_places()
held = subprocess.Popen(["flock", "/run/mvm/locks/tenant.held", "sleep", "1000"], start_new_session=True)
section, lines = None, open(f"{HERE}/wrong-inputs.txt").read().splitlines()
numbers = [n for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
seed, sample = int(os.environ.get("SEED") or random.randrange(10**6)), int(os.environ.get("SAMPLE") or len(numbers))
chosen = set(random.Random(seed).sample(numbers, min(sample, len(numbers))))
print(f"SEED={seed}, {len(chosen)} of {len(numbers)} wrong inputs", flush=True)
before = kernel()
for number, line in enumerate(lines, 1):
    if not line.strip() or line.startswith("#"):
        if line.startswith("# ==") and section:
            after = kernel()
            if differ(before, after): failed.append(f"section {section}: " + "; ".join(differ(before, after))); before = after
        if line.startswith("# =="): section = line[5:]
        continue
    if number not in chosen: continue
    code, word, command = (part.strip() for part in line.split(" | ", 2))
    type_line(number, int(code), word, command)
if differ(before, kernel()): failed.append(f"section {section}: " + "; ".join(differ(before, kernel())))
os.killpg(held.pid, 9); held.wait()
undo_places()
if failed: sys.exit("FAILED: " + f"{len(failed)} of {typed}\n" + "\n".join(failed))
print(f"ok: {typed} wrong inputs are refused and change nothing")
