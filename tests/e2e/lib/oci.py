"""Small OCI images of this host's own programs: pushed to a registry, or written as an archive.

    oci.py push REGISTRY USER:PASSWORD NAME:TAG MARK   prints the manifest's digest and the upper layer's
    oci.py layout|save FILE MARK                       an OCI layout in a tar; what `docker save` writes
    oci.py hostile FILE                                a layout whose layer leads out of the root
    oci.py workers DIRECTORY MARK…                     a layout MARK.tar each, whose program notes its mark on the data disk
                                                       and says that it is ready; `fails` ends, `silent` says nothing
"""
import base64, gzip, hashlib, io, json, subprocess, sys, tarfile, urllib.request

PROGRAMS = ["sh", "cat", "id", "sleep"]
SCRIPT = """#!/bin/sh
{ echo "$GREETING $1"; pwd; id -u; id -g; } > /tmp/said.new
read kept < /srv/mark
echo "$kept" >> /tmp/said.new
[ -e /srv/hidden ] && echo "the whiteout has no effect" >> /tmp/said.new
cat /tmp/said.new > /tmp/said
i=0
while :; do i=$((i + 1)); echo $i > /tmp/count; sleep 0.2; done
"""

WORKER = """#!/bin/sh
read mark < /srv/mark
echo "$mark" >> /data/seen
[ "$mark" != fails ] || exit 3
[ "$mark" = silent ] || : > /run/mvm/worker-ready
while :; do sleep 1; done
"""


class Layer:
    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.GNU_FORMAT)

    def entry(self, name, kind=tarfile.REGTYPE, data=b"", mode=0o755, link=""):
        one = tarfile.TarInfo(name)
        one.type, one.size, one.mode, one.linkname = kind, len(data), mode, link
        self.tar.addfile(one, io.BytesIO(data))

    def done(self):
        self.tar.close()
        return self.bytes.getvalue()


def lower():
    layer = Layer()
    for name in ["bin", "sbin", "lib", "lib64"]:
        layer.entry(name, tarfile.SYMTYPE, link="usr/" + name)
    paths = set()
    for program in PROGRAMS:
        path = subprocess.check_output(["readlink", "-f", "/usr/bin/" + program], text=True).strip()
        layer.entry("usr/bin/" + program, data=open(path, "rb").read())
        libraries = subprocess.check_output(["ldd", path], text=True).split()
        paths.update(word for word in libraries if word.startswith("/"))
    for path in sorted(paths):
        place = path if path.startswith("/usr/") else "/usr" + path
        layer.entry(place[1:], data=open(path, "rb").read())
    layer.entry("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\napp:x:1234:4321::/srv:/bin/sh\n", mode=0o644)
    layer.entry("etc/group", data=b"root:x:0:\nstaff:x:55:\n", mode=0o644)
    layer.entry("srv/hidden", data=b"of the lower layer\n", mode=0o644)
    layer.entry("srv/program", data=SCRIPT.encode())
    return layer.done()


def upper(mark):
    layer = Layer()
    layer.entry("srv/.wh.hidden")
    layer.entry("srv/mark", data=mark.encode() + b"\n", mode=0o644)
    return layer.done()


def worker(mark):
    layer = Layer()
    layer.entry("srv/mark", data=mark.encode() + b"\n", mode=0o644)
    layer.entry("srv/program", data=WORKER.encode())
    return layer.done()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(data, kind):
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def image(layers, user="app:staff"):
    plain = [digest(layer) for layer in layers]
    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": plain},
        "config": {"Entrypoint": ["program"], "Cmd": ["world"], "User": user, "WorkingDir": "/srv/made",
                   "Env": ["PATH=/srv:/usr/bin:/bin", "GREETING=hello"]},
    }).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(one, "application/vnd.oci.image.layer.v1.tar+gzip") for one in packed],
    }).encode()
    return config, packed, manifest


def push(registry, password, name, mark):
    repository, tag = name.split(":")
    who = "Basic " + base64.b64encode(password.encode()).decode()

    def ask(method, address, data=None, kind="application/octet-stream"):
        address = address if address.startswith("http") else f"http://{registry}/v2/{repository}/{address}"
        headers = {"Authorization": who, "Content-Type": kind}
        return urllib.request.urlopen(urllib.request.Request(address, data, headers, method=method))

    config, packed, manifest = image([lower(), upper(mark)])
    for blob in [config, *packed]:
        place = ask("POST", "blobs/uploads/", b"").headers["Location"]
        ask("PUT", place + ("&" if "?" in place else "?") + "digest=" + digest(blob), blob)
    ask("PUT", "manifests/" + tag, manifest, "application/vnd.oci.image.manifest.v1+json")
    print(digest(manifest), digest(packed[-1]))


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            one = tarfile.TarInfo(name)
            one.size = len(data)
            archive.addfile(one, io.BytesIO(data))


def layout(path, layers, user="app:staff"):
    config, packed, manifest = image(layers, user)
    blobs = {"blobs/sha256/" + digest(one)[7:]: one for one in [config, manifest, *packed]}
    index = {"schemaVersion": 2, "manifests": [described(manifest, "application/vnd.oci.image.manifest.v1+json")]}
    write(path, {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(), **blobs})


def save(path, layers):
    config, _, _ = image(layers)
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    saved = [{"Config": digest(config)[7:] + ".json", "RepoTags": ["app:1"], "Layers": names}]
    write(path, {"manifest.json": json.dumps(saved).encode(), saved[0]["Config"]: config, **dict(zip(names, layers))})


def hostile(path):
    layer = Layer()
    layer.entry("../../root/evil", data=b"evil")
    layout(path, [layer.done()])


act, words = sys.argv[1], sys.argv[2:]
if act == "push":
    push(*words)
elif act == "hostile":
    hostile(*words)
elif act == "workers":
    below = lower()
    for mark in words[1:]:
        layout(f"{words[0]}/{mark}.tar", [below, worker(mark)], "0")
else:
    {"layout": layout, "save": save}[act](words[0], [lower(), upper(words[1])])
