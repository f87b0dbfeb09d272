"""The hash that Nix knows a directory by, as a flake.lock has it: SHA-256 over the directory's archive (NAR).

nar.py DIRECTORY
"""
import base64, hashlib, os, sys


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return len(data).to_bytes(8, "little") + data + b"\0" * (-len(data) % 8)


def node(path):
    if os.path.islink(path):
        inner = text("type") + text("symlink") + text("target") + text(os.readlink(path))
    elif os.path.isdir(path):
        inner = text("type") + text("directory")
        for name in sorted(os.listdir(path)):
            below = text("name") + text(name) + text("node") + node(os.path.join(path, name))
            inner += text("entry") + text("(") + below + text(")")
    else:
        program = text("executable") + text("") if os.access(path, os.X_OK) else b""
        with open(path, "rb") as file:
            inner = text("type") + text("regular") + program + text("contents") + text(file.read())
    return text("(") + inner + text(")")


print("sha256-" + base64.b64encode(hashlib.sha256(text("nix-archive-1") + node(sys.argv[1])).digest()).decode())
