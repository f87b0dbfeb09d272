#!/bin/sh
# Builds a flake inside a builder and leaves the root of an image in /data/root.
#
#   build-flake FLAKE closed|open ATTRIBUTE…
#
# The first attribute of `packages.<system>` that the flake has is built. `closed` fetches nothing.
# What it makes is a directory. If that has a directory `rootfs`, this is the root, and what its files
# refer to lies beside it in /nix/store; else the root has the directories of what was made, and for each
# of its files a link into /nix/store.
#
# It ends with 65 when the flake has none of the attributes, with 66 when what it makes is no directory.
set -eu
flake=$1 net=$2
shift 2
export PATH=/usr/bin:/bin HOME=/data/home TMPDIR=/data/tmp LANG=C.UTF-8 TERM=dumb
export NIX_CONFIG='experimental-features = nix-command flakes
sandbox = false
build-users-group =
max-jobs = auto
connect-timeout = 15
download-attempts = 3
warn-dirty = false'
if [ "$net" = closed ]; then
    NIX_CONFIG="$NIX_CONFIG
substituters ="
else
    export NIX_SSL_CERT_FILE=/tmp/authorities.crt
    cat /usr/share/ca-certificates/mozilla/*.crt >"$NIX_SSL_CERT_FILE"
fi
# The store is on the data disk; a root in memory has no room for it.
mkdir -p /data/nix "$HOME" "$TMPDIR" /nix
mount -o bind /data/nix /nix

system=$(uname -m)-linux
names=$(nix eval --no-update-lock-file --raw "$flake#packages.$system" \
    --apply 'set: builtins.concatStringsSep "\n" (builtins.attrNames set)')
attribute=
for name in "$@"; do
    if printf '%s\n' "$names" | grep -qxF -- "$name"; then
        attribute=$name
        break
    fi
done
if [ -z "$attribute" ]; then
    echo "packages.$system has:" $names >&2
    exit 65
fi
echo "building packages.$system.$attribute"
nix build --no-update-lock-file -L --out-link /data/result "$flake#packages.$system.$attribute"
made=$(readlink /data/result)
if [ ! -d "$made" ]; then
    echo "$made is no directory" >&2
    exit 66
fi

# Files are linked, not copied: by their paths on the disk, for /nix is another mount.
root=/data/root
rm -rf "$root"
mkdir -p "$root/nix/store"
nix-store --query --requisites "$made" >"$TMPDIR/closure"
if [ -d "$made/rootfs" ]; then
    cp -al "/data$made/rootfs/." "$root/"
    if ! nix-store --query --references "$made" | grep -qxF -- "$made"; then
        grep -vxF -- "$made" "$TMPDIR/closure" >"$TMPDIR/others" || true
        mv "$TMPDIR/others" "$TMPDIR/closure"
    fi
else
    (cd "$made" && find . -mindepth 1 -type d) | while read -r path; do
        mkdir -p "$root/$path"
    done
    (cd "$made" && find . -mindepth 1 ! -type d) | while read -r path; do
        ln -s "$made/${path#./}" "$root/$path"
    done
fi
while read -r path; do
    cp -al "/data$path" "$root/nix/store/"
done <"$TMPDIR/closure"
# Nix takes the right to write from what it keeps; a root may be written to.
find "$root" -path "$root/nix" -prune -o -type d -exec chmod 755 {} +
chmod 755 "$root/nix" "$root/nix/store"
