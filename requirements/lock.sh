#!/usr/bin/env bash
# Lock what gatepass installs, by hash, for Python 3.11 and newer: runtime.txt, build.txt (the build backend), dev.txt (all of
# it), demo.txt (`make demo`), extra-NAME.txt (the packages of an extra, for the image), docs.txt (the site's generator),
# site.txt (the browser's driver for `make site-check` and `make ui-check`), chart.txt (Helm for `make chart-check`),
# tls-scan.txt (sslyze for `make tls-scan`) and release.txt (the tools of `make release`).
# Arguments go to `uv pip compile`: none keeps the pins that still fit, --upgrade takes the newest of everything,
# --upgrade-package NAME of one. Needs uv: $UV, or one on the PATH, or a throw-away one from pip.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
uv=${UV:-$(command -v uv || true)}
if [ -z "$uv" ]; then
  python3 -m venv "$scratch/uv"
  "$scratch/uv/bin/pip" install -q uv
  uv=$scratch/uv/bin/uv
fi

# Wheels only: a source archive would build with tools that no lock holds. sslyze has no wheel, so its lock has its tool.
lock() { # NAME INPUT...: compile the inputs into requirements/NAME.txt
  local name=$1
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: --no-binary sslyze \
    --no-header --output-file "requirements/$name.txt" "$@" > /dev/null
  sed -i '1i # Made by requirements/lock.sh: change pyproject.toml and run that.' "requirements/$name.txt"
}
lock runtime pyproject.toml "$@"
lock build requirements/build.in "$@"
lock dev pyproject.toml --group dev requirements/build.in -c requirements/runtime.txt -c requirements/build.txt "$@"
lock demo pyproject.toml --group demo -c requirements/dev.txt "$@"
lock docs --group docs "$@"
lock site --group site -c requirements/dev.txt "$@"
lock chart --group chart -c requirements/dev.txt "$@"
lock tls-scan --group tls-scan "$@"
lock release --group release requirements/build.in -c requirements/build.txt "$@"
extras=$(python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])')
for extra in $extras; do
  [ "$extra" = all ] || lock "extra-$extra" pyproject.toml --extra "$extra" -c requirements/dev.txt "$@"
done

if grep -nE '[a-z]+://|(^|[ =])(/|~|-i |--index|--find-links)' requirements/{runtime,build,dev,demo,docs,site,chart,tls-scan,release,extra-*}.txt; then
  echo "the lines above name a place of this machine or an index: they do not belong into a lock" >&2
  exit 1
fi

UV="$uv" requirements/platforms.sh
