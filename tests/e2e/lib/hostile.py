"""An agent that was taken over speaks to mvm-hostd: each attack must be refused, whatever it says.

Usage: hostile.py SOCKET INSTANCE OTHER-INSTANCE UID OTHER-UID NET OTHER-NET OTHER-VOLUME
"""
import json, os, random, socket, struct, sys

path, victim, other, uid, other_uid, net, other_net, volume = sys.argv[1:9]
uid, other_uid, net, other_net = int(uid), int(other_uid), int(net), int(other_net)


def connect():
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(30)
    stream.connect(path)
    return stream


def exactly(stream, count):
    out = b""
    while len(out) < count:
        try:
            part = stream.recv(count - len(out))
        except ConnectionResetError:
            return None
        if not part:
            return None
        out += part
    return out


def ask(question, stream=None):
    stream = stream or connect()
    data = question if isinstance(question, bytes) else json.dumps(question).encode()
    stream.sendall(struct.pack(">I", len(data)) + data)
    head = exactly(stream, 4)
    return None if head is None else json.loads(exactly(stream, struct.unpack(">I", head)[0]))


def effect(name, content):
    return {"execute": {"effect": {name: content}, "operation": None}}


def refused(what, question, *kinds):
    answer = ask(question)
    kind = (answer or {}).get("Err", {}).get("kind")
    if kind not in (kinds or ("permission",)):
        sys.exit(f"FAILED: {what}: {answer}")
    print(f"ok: refused: {what}: {': '.join([answer['Err']['message'], *answer['Err']['causes']])[:150]}")


assert "Ok" in ask({"hello": {}}), "it does not speak"
parts = victim.split("/")
network = lambda tenant, net: {"tenant": tenant, "tenant_net_id": net, "ipv4_subnet": f"10.240.{net}.0/24"}

refused("a VMM as root", effect("spawn_vmm", {"instance": victim, "uid": 0}))
refused("a VMM as another instance's user", effect("spawn_vmm", {"instance": victim, "uid": other_uid}))
refused("a volume for another instance's user", effect("volume", {"ensure": {"instance": victim, "uid": other_uid, "size": 64, "kind": "plain"}}))
refused("a volume that another tenant kept", effect("volume", {"attach": {"volume": volume, "instance": victim, "kind": "luks", "uid": uid}}))
refused("an instance moved to another tenant", effect("load_snapshot", {"instance": f"{other.split('/')[0]}/x/{parts[2]}", "epoch": 1}))
refused("another tenant's network", effect("ensure_bridge", network(parts[0], other_net)))
refused("a network within another tenant's", effect("ensure_bridge", dict(network("evil", 77), ipv4_subnet=f"10.240.{other_net}.0/25")))
refused("routes that are another tenant's", effect("ensure_routes", network("evil", other_net)))
refused("tables without walls", effect("replace_firewall", {"generation": 999999, "networks": [], "ports": []}), "conflict")
refused("tables that forge an address", effect("replace_firewall", {"generation": 999999, "networks": [network(parts[0], net)], "ports": [{"net": net, "offset": 3, "mac": [2, 252, 0, net, 0, 3], "address": f"10.240.{net}.9"}]}))
refused("a tap for another instance's user", effect("ensure_tap", {"net": net, "offset": 3, "uid": other_uid}))
refused("a bridge from under its guests", effect("remove_bridge", net), "conflict")
refused("a cgroup without limits", effect("ensure_cgroup", {"instance": parts[2], "limits": {"memory": 1 << 20, "cpus": 4096, "pids": 1 << 20}}))
refused("a path for an id", effect("remove_instance_files", "../../../etc"), "invalid")
refused("a path for a pool", effect("remove_pool_files", f"{parts[0]}/.."), "invalid")
refused("an effect that does not exist", effect("run", "/bin/sh"), "invalid")
refused("a field that does not exist", {"hello": {"uid": 0}}, "invalid")
refused("an image that does not exist", {"ensure_image": {"source": {"image": "/etc/shadow"}, "profile": "", "role": "worker", "rebuild": "when_changed", "timeout": 60}}, "not_found", "invalid", "failed")

# What makes no sense ends its connection and nothing else.
random.seed(7)
for _ in range(300):
    stream = connect()
    try:
        stream.sendall(random.randbytes(random.randrange(1, 200)))
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(4096):
            pass
    except OSError:
        pass
    stream.close()
stream = connect()
stream.sendall(struct.pack(">I", 0xFFFFFFFF) + b"x" * 100)
assert exactly(stream, 4) is None, "a frame of 4 GiB was taken"
half = [connect() for _ in range(100)]
for stream in half:
    stream.sendall(b"\0\0")
assert "Ok" in ask({"hello": {}}), "it does not serve beside a hundred who say half a word"
valid = json.dumps(effect("pause_vmm", {"instance": parts[2], "purpose": "warm"})).encode()
for _ in range(500):
    changed = bytearray(valid)
    for _ in range(random.randrange(1, 4)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    answer = ask(bytes(changed))
    if b'"pause_vmm"' not in changed and "Ok" in answer:
        sys.exit(f"FAILED: {bytes(changed)} was obeyed: {answer}")
assert "Ok" in ask(effect("resume_vmm", parts[2])), "the guest does not go on"
print("ok: garbage ends nothing but its connection")
