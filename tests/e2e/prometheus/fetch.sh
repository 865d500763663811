#!/bin/sh
# Puts Debian's or Ubuntu's Prometheus into the folder $1, as $1/prometheus and $1/promtool. The package is unpacked and
# not installed. Needs no root.
set -eu
home=$1
mkdir -p "$home"
cd "$home"

if ! { command -v apt-get && command -v dpkg-deb; } >/dev/null; then
    echo "tests/e2e/prometheus/fetch.sh: no apt-get here. Install Prometheus so that prometheus and promtool are on PATH" >&2
    exit 1
fi
apt-get -qq download prometheus || {
    echo "tests/e2e/prometheus/fetch.sh: apt-get cannot fetch the package prometheus. Run apt-get update first" >&2
    exit 1
}
dpkg-deb -x prometheus_*.deb root
rm prometheus_*.deb
ln -sf root/usr/bin/prometheus root/usr/bin/promtool .
./prometheus --version
