# minutes: 30
# An OCI image of 300 MB into an image on a host without instructions for SHA-256: what the page `images` measures,
# by the same script.
set -euo pipefail
vmm=(/var/lib/mvm/binaries/firecracker-*)
images=/var/lib/mvm/images
echo '# A large OCI image into an image, in a test host'
echo
echo "$(date -u +%F), \`cargo xtask bench oci\`, as shipped, in one host of one software CPU, in turn; milliseconds."
echo
ROUNDS=${ROUNDS:-5} bash /usr/local/lib/mvm-bench/images.sh /usr/local/bin/mvm "$images/$(cat "$images/refs/default")" "${vmm[0]}"
echo
# What cannot be left out: the archive's five layers inflated and verified, a file of their contents written, and its
# digest. Python's zlib and hashlib stand for any.
echo 'What no program does without, each alone:'
echo
echo '| what | ms |'
echo '|---|---|'
python3 /usr/local/lib/mvm-bench/large.py /srv/image.tar
python3 - /srv/image.tar <<'PY'
import hashlib, os, sys, tarfile, time, zlib

archive = tarfile.open(sys.argv[1])
layers = [one for one in (archive.extractfile(name).read() for name in archive.getnames()) if one[:2] == b"\x1f\x8b"]


def timed(what, act):
    began = time.monotonic()
    found = act()
    print(f"| {what} | {round((time.monotonic() - began) * 1000)} |")
    return found


timed("digests of the packed layers", lambda: [hashlib.sha256(one).hexdigest() for one in layers])
plain = timed("inflating them", lambda: [zlib.decompress(one, 31) for one in layers])
with open("/srv/contents", "wb") as file:
    timed("writing what is in them", lambda: [file.write(one) for one in plain])
    file.flush()
    timed("bringing that to the disk", lambda: os.fsync(file.fileno()))
whole = hashlib.sha256()
timed("its digest", lambda: [whole.update(one) for one in plain])
PY
