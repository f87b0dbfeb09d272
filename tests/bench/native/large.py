"""A large OCI image that follows from nothing but this file, as a layout in a tar.

    large.py FILE

300 MB in five layers: few large files have most bytes, most files are small, as in images of languages and
their libraries. Half of the bytes can be packed. A layer hides a file of the one below.
"""
import gzip, hashlib, io, json, random, sys, tarfile

# How many files of which size; together 300 MB.
MIX = [(4000, 2 << 10), (1500, 20 << 10), (250, 300 << 10), (30, 3 << 20), (6, 16 << 20)]
LAYERS = 5


def content(chance, length):
    piece = chance.randbytes(512)
    # As much again that packs well.
    text = (piece[:16].hex().encode() * 16)[:512]
    data = b"".join(chance.randbytes(512) + text for _ in range(-(-length // 1024)))
    return data[:length]


def layer(number):
    chance = random.Random(number)
    bytes_of = io.BytesIO()
    archive = tarfile.open(fileobj=bytes_of, mode="w", format=tarfile.GNU_FORMAT)

    def entry(name, data=b"", kind=tarfile.REGTYPE, mode=0o644):
        one = tarfile.TarInfo(name)
        one.type, one.size, one.mode, one.mtime = kind, len(data), mode, 1_577_836_800
        archive.addfile(one, io.BytesIO(data))

    if number:
        entry(f"usr/lib/layer{number - 1}/0/.wh.0-0")
    for kind, (count, size) in enumerate(MIX):
        for file in range(number, count, LAYERS):
            place = f"usr/lib/layer{number}/{file // LAYERS % 40}"
            entry(f"{place}/{kind}-{file // LAYERS}", content(chance, size), mode=0o755 if size > 1 << 20 else 0o644)
    archive.close()
    return bytes_of.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(data, kind):
    return {"mediaType": "application/vnd.oci.image." + kind, "digest": digest(data), "size": len(data)}


def main(path):
    plain, packed = [], []
    for number in range(LAYERS):
        data = layer(number)
        plain.append(digest(data))
        packed.append(gzip.compress(data, 1, mtime=0))
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": plain},
        "config": {"Entrypoint": ["/bin/none"]},
    }).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(config, "config.v1+json"),
        "layers": [described(one, "layer.v1.tar+gzip") for one in packed],
    }).encode()
    index = {"schemaVersion": 2, "manifests": [described(manifest, "manifest.v1+json")]}
    members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    members |= {"blobs/sha256/" + digest(one)[7:]: one for one in [config, manifest, *packed]}
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            one = tarfile.TarInfo(name)
            one.size = len(data)
            archive.addfile(one, io.BytesIO(data))


main(sys.argv[1])
