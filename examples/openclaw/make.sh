# Makes the root of a guest from what a builder has itself: busybox, and the program of a role.
set -eu
export PATH=/bin
root=$out/rootfs
mkdir -p "$root/bin" "$root/etc/mvm"
cp /bin/busybox "$root/bin/busybox"
for applet in $applets; do
    ln -s busybox "$root/bin/$applet"
done
cat "$start" >"$root/etc/mvm/start"
chmod 755 "$root/bin/busybox" "$root/etc/mvm/start"
