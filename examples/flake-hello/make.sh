# Makes the root of a guest from what a builder has itself: busybox, and a program to start.
set -eu
export PATH=/bin
root=$out/$place
mkdir -p "$root/bin" "$root/etc/mvm"
cp /bin/busybox "$root/bin/busybox"
for applet in cat ls readlink sh sleep; do
    ln -s busybox "$root/bin/$applet"
done
cat >"$root/etc/mvm/start" <<END
#!/bin/sh
echo '$greeting' >/run/greeting
turns=0
while :; do
    turns=\$((turns + 1))
    echo \$turns >/run/turns
    sleep 1
done
END
chmod 755 "$root/bin/busybox" "$root/etc/mvm/start"
