#!/bin/sh
# Puts a real Valkey (or Redis) server into the folder $1, as $1/server: the one that is installed, else Debian's or
# Ubuntu's package and the libraries that this machine lacks for it, unpacked and not installed. Needs no root.
set -eu
home=$1
mkdir -p "$home"

for installed in valkey-server redis-server; do
    if path=$(command -v "$installed"); then
        ln -s "$path" "$home/server"
        exit
    fi
done

missing() { # PACKAGE: what installing it would bring along, itself included; nothing where it is not known
    apt-get -qq --simulate --no-install-recommends install "$1" 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p'
}

for package in valkey-server redis-server; do
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || break
    needed=$(missing "$package")
    [ -n "$needed" ] || continue
    # shellcheck disable=SC2086 # a list of words
    (cd "$home" && apt-get -qq download $needed 2>/dev/null && for file in *.deb; do dpkg-deb -x "$file" root; done) || continue
    libraries=$(find "$home/root" -name '*.so*' -exec dirname {} + | sort -u | paste -sd:)
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/root/usr/bin/%s "$@"\n' "$libraries" "$home" "$package" >"$home/server"
    chmod +x "$home/server"
    "$home/server" --version
    exit
done

echo "tests/e2e/store/fetch.sh: there is no valkey-server or redis-server, and apt-get cannot fetch one" \
    "(install either; or run apt-get update first)" >&2
exit 1
