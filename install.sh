#!/bin/sh
# Installs mvm: the newest release, or a certain one, into a directory of programs.
#
#   curl -fsSL …/install.sh | sh
#   curl -fsSL …/install.sh | MVM_VERSION=0.2.0 sh
#   sh install.sh --version 0.2.0 --dir ~/.local/bin
#
# A release is SHA256SUMS, its signature, and the archive that it names. Nothing is run or installed before
# the signature of the release key and the archive's hash hold. Versions lie side by side, and one rename
# brings the new one into force (the layout is drawn in crates/mvm/src/upgrade/place.rs):
#
#   DIR/mvm -> .mvm/current/bin/mvm    DIR/.mvm/current -> 0.2.0~1    DIR/.mvm/former -> what was before
#
# It needs the usual small programs, tar, gzip, curl or wget, and OpenSSL 3. Exit codes are those of mvm:
# 0 done, 1 failed, 2 usage, 6 invalid input, 8 not to be had, 9 does not verify.
set -eu

# The project and the public half of its release key: as in crates/mvm-build/src/release/mod.rs and
# packaging/release/key.pub, which a test compares. Without a key only one that is given is trusted.
forge=github
project='auser/mvm'
release_key=''

usage() {
    cat <<'USAGE'
Installs mvm, verified by the project's release key.

usage: install.sh [--version VERSION] [--dir DIR] [--key FILE] [--insecure-skip-signature]

  --version VERSION  this version instead of the newest        (MVM_VERSION)
  --dir DIR          where programs are started from           (MVM_INSTALL_DIR)
                     by default /usr/local/bin for root, else ~/.local/bin
  --key FILE         trust this release key instead of the project's
  --insecure-skip-signature
                     do not verify the signature: whoever offers the files is believed

MVM_ASSET_MIRROR, an address or a directory, is asked instead of the project's own releases.
USAGE
}

# code message [advice]
fail() {
    printf 'mvm: error: %s\n' "$2" >&2
    [ -z "${3:-}" ] || printf 'hint: %s\n' "$3" >&2
    exit "$1"
}

say() { printf '%s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# file: gets one of the release to where the installer works.
fetch() {
    if [ "$1" = SHA256SUMS ] || [ "$1" = SHA256SUMS.sig ]; then from=$base/$edition/$1; else from=$base/releases/download/v$version/$1; fi
    to=$part/$1
    case $from in
        /*) cp "$from" "$to" 2>/dev/null ;;
        file://*) cp "${from#file://}" "$to" 2>/dev/null ;;
        *)
            if has curl; then
                curl -fsSL --connect-timeout 15 --max-time 1800 -o "$to" "$from"
            elif has wget; then
                wget -q -O "$to" "$from"
            else
                fail 8 'neither curl nor wget is installed' 'install one of them'
            fi
            ;;
    esac || fail 8 "cannot get $from" 'check the version and the network, or set MVM_ASSET_MIRROR to a place that has it'
}

# Prints the key that releases must be signed with; nothing when none is trusted.
trusted_key() {
    if [ -z "$key_file" ]; then
        printf '%s' "$release_key"
        return
    fi
    while read -r line || [ -n "$line" ]; do
        case $line in '#'* | '') ;; *) printf '%s' "$line" ;; esac
    done <"$key_file" || fail 6 "cannot read the release key $key_file"
}

# Refuses a list of sums that the release key did not sign.
verify_signature() {
    if [ "$skip_signature" = yes ]; then
        say 'mvm: warning: the signature is not verified, as you asked'
        return
    fi
    key=$(trusted_key)
    [ -n "$key" ] || fail 9 'no release key is trusted, so that no release can be verified' \
        'give the file of one with --key FILE, or believe whoever offers the files: --insecure-skip-signature'
    case $key in
        *[!A-Za-z0-9+/=]*) fail 6 'the release key is not base64 of 32 bytes' ;;
    esac
    [ "${#key}" = 44 ] || fail 6 'the release key is not base64 of 32 bytes'
    has openssl || fail 8 'openssl is not installed, so that the signature cannot be verified' \
        'install it, or believe whoever offers the files: --insecure-skip-signature'
    case $(openssl pkeyutl -help 2>&1) in
        *-rawin*) ;;
        *) fail 8 'this openssl cannot verify Ed25519 signatures' 'install OpenSSL 3' ;;
    esac
    # An Ed25519 key in PEM is these twelve bytes before the 32 of the key (RFC 8410).
    printf -- '-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA%s\n-----END PUBLIC KEY-----\n' "$key" >"$part/key.pem"
    fetch SHA256SUMS.sig
    openssl pkeyutl -verify -pubin -inkey "$part/key.pem" -rawin -in "$part/SHA256SUMS" \
        -sigfile "$part/SHA256SUMS.sig" >/dev/null 2>&1 ||
        fail 9 'the signature of the release does not hold' \
            'nothing was changed; whoever offers this release does not have the release key'
}

# Finds the archive for this processor in the list, and by its name the version.
read_sums() {
    archive='' version='' sum=''
    while read -r hash name; do
        case $name in
            mvm-*-"$arch"-linux.tar.gz)
                [ -z "$archive" ] || fail 9 'SHA256SUMS lists two archives for this processor'
                archive=$name sum=$hash
                ;;
        esac
    done <"$part/SHA256SUMS"
    [ -n "$archive" ] || fail 9 "the release has no archive for $arch"
    version=${archive#mvm-}
    version=${version%"-$arch-linux.tar.gz"}
    case $version in
        '' | [!0-9]* | *[!0-9A-Za-z.-]*) fail 9 "the release has a malformed version: $version" ;;
    esac
    [ -z "$wanted" ] || [ "$wanted" = "$version" ] || fail 9 "the release $wanted is signed as $version"
}

# Refuses an archive that is not the one that was signed, and entries that no release has.
verify_archive() {
    printf '%s  %s\n' "$sum" "$archive" >"$part/sum"
    (cd "$part" && sha256sum -c sum) >/dev/null 2>&1 || fail 9 "$archive is not what was signed"
    tar -tzf "$part/$archive" >"$part/names" 2>/dev/null || fail 9 "cannot read $archive"
    while read -r name; do
        case /$name/ in
            */../* | *\\*) fail 9 "the archive has an entry that leads outside: $name" ;;
            "/$tree/"*) ;;
            *) fail 9 "the archive has an entry that leads outside: $name" ;;
        esac
    done <"$part/names"
    tar -tvzf "$part/$archive" >"$part/entries" 2>/dev/null || fail 9 "cannot read $archive"
    while read -r mode rest; do
        case $mode in
            *[sStT]*) fail 9 "the archive has a mode that no release has: $mode $rest" ;;
            -* | d*) ;;
            *) fail 9 "the archive has an entry that is no plain file: $mode $rest" ;;
        esac
    done <"$part/entries"
}

# path target: makes a link, or replaces what is there, at once.
link() {
    ln -s "$2" "$part/link"
    mv -f -T "$part/link" "$1"
}

# The version of what lies in the directory itself, which was not installed by this script.
plain_version() {
    said=$("$dir/mvm" --version 2>/dev/null) || said=''
    said=${said#mvm }
    case $said in
        '' | [!0-9]* | *[!0-9A-Za-z.-]*) printf '0.0.0' ;;
        *) printf '%s' "$said" ;;
    esac
}

# tree version: gives a finished tree its name, which is in $kept then.
keep() {
    number=1
    while [ -e "$versions/$2~$number" ]; do number=$((number + 1)); done
    kept=$2~$number
    mv -T "$1" "$versions/$kept"
}

# Programs that lie in the directory itself are kept as a version of their own.
adopt() {
    [ -e "$dir/mvm" ] || return 0
    mkdir -p "$part/plain/bin"
    for name in mvm mvm-hostd mvm-shim mvm-pager mvm-guest; do
        [ ! -f "$dir/$name" ] || ln "$dir/$name" "$part/plain/bin/$name" 2>/dev/null || cp -p "$dir/$name" "$part/plain/bin/$name"
    done
    keep "$part/plain" "$(plain_version)"
    link "$versions/current" "$kept"
}

# Brings the version $kept into force.
switch() {
    before=$(readlink "$versions/current" 2>/dev/null) || before=''
    [ -z "$before" ] || link "$versions/former" "$before"
    link "$versions/current" "$kept"
    for name in mvm mvm-agentd mvm-hostd mvm-shim mvm-pager mvm-guest; do
        program=$name
        [ "$name" != mvm-agentd ] || program=mvm
        [ "$(readlink "$dir/$name" 2>/dev/null)" = ".mvm/current/bin/$program" ] || link "$dir/$name" ".mvm/current/bin/$program"
    done
    for old in "$versions"/*~*; do
        case ${old##*/} in "$kept" | "$before") ;; *) rm -rf "$old" ;; esac
    done
}

read_arguments() {
    wanted=${MVM_VERSION:-} dir=${MVM_INSTALL_DIR:-} key_file='' skip_signature=no
    while [ $# -gt 0 ]; do
        case $1 in
            --version | --dir | --key)
                [ $# -ge 2 ] || fail 2 "$1 needs a value" 'see --help'
                case $1 in --version) wanted=$2 ;; --dir) dir=$2 ;; --key) key_file=$2 ;; esac
                shift
                ;;
            --insecure-skip-signature) skip_signature=yes ;;
            --help | -h) usage && exit 0 ;;
            *) fail 2 "there is no option $1" 'see --help' ;;
        esac
        shift
    done
    wanted=${wanted#v}
    case $wanted in *[!0-9A-Za-z.-]* | -* | .*) fail 6 "not a version: $wanted" ;; esac
    if [ -z "$dir" ]; then
        if [ "$(id -u)" = 0 ]; then dir=/usr/local/bin; else dir=${HOME:?}/.local/bin; fi
    fi
    case $dir in /*) ;; *) dir=$(pwd)/$dir ;; esac
}

main() {
    read_arguments "$@"
    umask 022
    [ "$(uname -s)" = Linux ] || fail 8 "there are no releases for $(uname -s)"
    arch=$(uname -m)
    case $arch in x86_64 | aarch64) ;; *) fail 8 "there are no releases for $arch" ;; esac
    for program in tar gzip sha256sum mktemp readlink; do
        has "$program" || fail 8 "$program is not installed" 'install it'
    done
    base=${MVM_ASSET_MIRROR:-https://$forge.com/$project}
    base=${base%/}
    if [ -n "$wanted" ]; then edition=releases/download/v$wanted; else edition=releases/latest/download; fi
    versions=$dir/.mvm
    mkdir -p "$versions" 2>/dev/null || fail 7 "cannot write to $dir" 'run it as root, or choose another directory with --dir'
    part=$(mktemp -d "$versions/part.XXXXXX" 2>/dev/null) ||
        fail 7 "cannot write to $dir" 'run it as root, or choose another directory with --dir'
    trap 'rm -rf "$part"; rmdir "$versions" 2>/dev/null || true' EXIT
    trap 'exit 130' HUP INT TERM

    fetch SHA256SUMS
    verify_signature
    read_sums
    tree=mvm-$version-$arch-linux
    present=$(readlink "$versions/current" 2>/dev/null) || present=''
    if [ "${present%~*}" = "$version" ] && [ -x "$dir/mvm" ]; then
        say "mvm $version is in $dir already"
        return
    fi
    say "mvm $version: fetching"
    fetch "$archive"
    verify_archive
    tar -xzof "$part/$archive" -C "$part" || fail 1 "cannot unpack $archive"
    for program in mvm mvm-hostd mvm-shim mvm-pager mvm-guest; do
        [ -x "$part/$tree/bin/$program" ] || fail 9 "the archive lacks the program $program"
    done
    said=$("$part/$tree/bin/mvm" --version 2>/dev/null) || fail 1 'the new version does not run here'
    [ "$said" = "mvm $version" ] || fail 9 "the new version calls itself $said, and was signed as $version"

    [ -n "$present" ] || adopt
    keep "$part/$tree" "$version"
    switch
    say "mvm $version is installed in $dir"
    case :${PATH:-}: in *":$dir:"*) ;; *) say "add it to your search path: export PATH=\"$dir:\$PATH\"" ;; esac
    say "units, man pages and completions are in $dir/.mvm/current; what this machine lacks: mvm doctor"
}

main "$@"
