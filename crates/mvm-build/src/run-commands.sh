#!/bin/sh
# Runs commands in the root of an image, inside a builder; what they leave there is the root of another image.
#
#   run-commands ROOT COMMAND…
#
# Each runs as root by the root's own /bin/sh, with an environment of its own. What one mounts or leaves running
# is gone at the end: all of them are in namespaces that end with this program. /run and /tmp are not part of the
# image. The first command that fails ends it, with its exit code.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1
shift
if [ -z "${IS_APART:-}" ]; then
    IS_APART=yes exec unshare -m -p -f /bin/sh "$0" "$root" "$@"
fi
umask 022
mkdir -p /data/tmp
chmod 1777 /data/tmp
mount -t proc proc "$root/proc"
mount -o bind /sys "$root/sys"
mount -o bind /dev "$root/dev"
mount -t tmpfs -o mode=755 run "$root/run"
mount -o bind /data/tmp "$root/tmp"
# Names are resolved as in the builder; a link leads where the image means it to.
if [ -f "$root/etc/resolv.conf" ] && [ ! -L "$root/etc/resolv.conf" ]; then
    mount -o bind /etc/resolv.conf "$root/etc/resolv.conf"
fi
for command in "$@"; do
    echo "+ $command"
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
        LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH=1577836800 \
        chroot "$root" /bin/sh -c "$command" </dev/null
done
