# An OCI image of 300 MB into an image by the process that makes images, against a script that unpacks it and
# copies it onto a file system; in turn, as root, on this machine. It prints a table and a ratio.
#
#   images.sh MVM IMAGE FIRECRACKER     the program, with its guest agent beside it; the directory of the
#                                       default image that has this agent; the directory of the VMM's programs
set -euo pipefail
here=$(dirname "$(readlink -f "$0")") place=/srv/mvm-bench mvm=$1
trap 'umount "$place/mount" 2>/dev/null || true; rm -rf "$place"' EXIT
umask 022
mkdir -p "$place/data/images/refs" "$place/data/binaries"
cp -r "$2" "$place/data/images/"
basename "$2" >"$place/data/images/refs/default"
cp -r "$3" "$place/data/binaries/firecracker-$("$3/firecracker" --version | sed -n '1s/.* v//p')"
echo 'disk_reserve_percent = 1' >"$place/config.toml"
python3 "$here/large.py" "$place/image.tar"
order='{"ensure":{"source":{"image":"oci-archive:'$place'/image.tar"},"profile":"minimal","role":"worker","rebuild":"when_changed","timeout":600}}'

by_script() {
    mkdir "$place/layout" "$place/root" "$place/mount"
    tar -xf "$place/image.tar" -C "$place/layout"
    local blobs=$place/layout/blobs manifest digest
    manifest=$(jq -r '.manifests[0].digest' "$place/layout/index.json")
    for digest in $(jq -r '.layers[].digest' "$blobs/${manifest/://}"); do
        tar -xzf "$blobs/${digest/://}" -C "$place/root"
        find "$place/root" -name '.wh.*' | while read -r hidden; do rm -rf "$hidden" "${hidden/.wh./}"; done
    done
    truncate -s 400M "$place/disk"
    mkfs.ext4 -q -F "$place/disk"
    mount -o loop "$place/disk" "$place/mount"
    cp -a "$place/root/." "$place/mount/"
    umount "$place/mount"
    sync "$place/disk"
}
by_mvm() {
    "$mvm" --config-file "$place/config.toml" --data-dir "$place/data" build-image "$order" >"$place/said"
    jq -e .Ok.image "$place/said" >/dev/null || { cat "$place/said" >&2; exit 1; }
}
forget() {
    rm -rf "$place/layout" "$place/root" "$place/mount" "$place/disk"
    local image
    for image in "$place"/data/images/*/manifest.json; do
        [ "$(jq -r .name "$image")" != oci ] || rm -rf "${image%/*}"
    done
    sync "$place"
}
# name function: how many milliseconds it takes, kept for the table.
timed() {
    local began; began=$(date +%s%N)
    "$2"
    echo $((($(date +%s%N) - began) / 1000000)) >>"$place/of-$1"
}
for _ in $(seq "${ROUNDS:-30}"); do
    forget
    timed script by_script
    forget
    timed cold by_mvm
    timed warm by_mvm
done
at() { sort -n "$place/of-$1" | sed -n "$((($(wc -l <"$place/of-$1") * $2 + 99) / 100))p"; }
row() { printf '| %s | %s | %s | %s |\n' "$2" "$(at "$1" 50)" "$(at "$1" 99)" "$(paste -sd' ' "$place/of-$1")"; }
printf '| what | P50 | P99 | samples |\n|---|---|---|---|\n'
row script 'script: tar, mkfs.ext4, loop mount, cp -a, umount, sync'
row cold 'made by mvm'
row warm 'made before, by mvm'
printf '\n- script by mvm, at the half: %s\n' "$(awk "BEGIN { printf \"%.2f\", $(at script 50) / $(at cold 50) }")"
