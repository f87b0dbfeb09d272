# Sourced by scripts that bring packages: a repository of them in the host is the only source of its apt.
repository() {
    local place=/srv/packages made=/srv/made deb base
    # What libgcc-s1 depends on has no files; the programs of the tests are a package of their own.
    base=$(dpkg-deb --field "$place/libgcc-s1.deb" Version)
    package gcc-12-base "$base"
    mkdir -p "$made/greeter/usr/bin"
    printf '#!/bin/sh\necho "hello from $1"\nsleep 1000000\n' >"$made/greeter/usr/bin/greeter"
    chmod 755 "$made/greeter/usr/bin/greeter"
    package greeter 1.0 'Depends: busybox-static'
    for deb in "$place"/*.deb; do
        dpkg-deb --field "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "${deb##*/}" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d ' ' -f 1)"
    done >"$place/Packages"
    rm -rf /etc/apt/sources.list.d/*
    echo "deb [trusted=yes] file:$place ./" >/etc/apt/sources.list
    apt-get update -qq
}

# name version [field]: a package of what is in the directory of its name.
package() {
    local directory=/srv/made/$1
    mkdir -p "$directory/DEBIAN"
    printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: tests <tests@example.com>\nDescription: of the tests\n' "$1" "$2" >"$directory/DEBIAN/control"
    [ -z "${3:-}" ] || echo "$3" >>"$directory/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$directory" "/srv/packages/$1.deb" >/dev/null
}
