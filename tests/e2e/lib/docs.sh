# Sourced by the end-to-end scripts of documents: types what a document tells its reader to type.
#
# A fenced block of the language `sh` is typed, all blocks of a document in order and in one shell,
# so that variables last; `set -e` holds. Blocks of any other language (`text`, `toml`, …) are for
# reading only, and `sh no-run` says aloud that a block cannot run in a test host. A command that
# shall fail is written with `!` before it.

# The lines that a document tells to type.
typed_lines() {
    awk '
        /^ *```/ && inside { inside = 0; next }
        /^ *```sh *$/ { inside = 1; next }
        /^ *```/ { inside = 2; next }
        inside == 1 { print }
    ' "$1"
}

# Types a document: `typed networking.md`. Every line is shown before it runs.
typed() {
    local document=/usr/local/share/doc/mvm/$1 lines
    [ -s "$document" ] || { echo "FAILED: there is no document $1" >&2; return 1; }
    lines=$(typed_lines "$document")
    [ -n "$lines" ] || { echo "FAILED: $1 has no block to type" >&2; return 1; }
    printf '%s\n' "$lines" >"/run/typed-$1.sh"
    bash -euo pipefail -v "/run/typed-$1.sh" </dev/null 2>&1 || { echo "FAILED: $1: a line above failed" >&2; return 1; }
    echo "ok: every line of $1 was typed"
}
