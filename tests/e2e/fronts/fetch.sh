#!/bin/sh
# Puts Debian's or Ubuntu's nginx, HAProxy, Apache, Squid and tinyproxy into the folder $1, as $1/NAME. The packages and
# the libraries that this machine lacks for them are unpacked and not installed. Needs no root.
set -eu
home=$1
mkdir -p "$home"
cd "$home"

if ! { command -v apt-get && command -v dpkg-deb; } >/dev/null; then
    echo "tests/e2e/fronts/fetch.sh: no apt-get here. test_fronts.py is skipped" >&2
    exit
fi
# Squid's scripts in Perl are not run
needed=$(apt-get -qq --simulate --no-install-recommends install nginx haproxy apache2-bin squid tinyproxy-bin |
    sed -n '/perl/d; s/^Inst \([^ ]*\).*/\1/p')
# a package that is installed is unpacked too
# shellcheck disable=SC2086 # a list of words
packages=$(printf '%s\n' $needed nginx haproxy apache2-bin squid squid-common squid-langpack tinyproxy-bin | sort -u)
# shellcheck disable=SC2086 # a list of words
apt-get -qq download $packages || {
    echo "tests/e2e/fronts/fetch.sh: apt-get cannot fetch the packages. Run apt-get update first" >&2
    exit 1
}
for file in *.deb; do dpkg-deb -x "$file" root; done
rm ./*.deb
libraries=$(find "$home/root" -name '*.so*' -exec dirname {} + | sort -u | paste -sd:)
for program in nginx haproxy apache2 squid tinyproxy; do
    path=$(find "$home/root/usr/sbin" "$home/root/usr/bin" -name "$program" | head -1)
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$path" >"$program"
    chmod +x "$program"
done
./nginx -v
