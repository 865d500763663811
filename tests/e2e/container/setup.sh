#!/usr/bin/env bash
# Install what the container tests need on Debian or Ubuntu: an engine without a daemon, and a way to make a base without a registry.
# Changes the machine and needs root, so only `make e2e-system` calls it; `--check` reports what is missing and changes nothing.
set -euo pipefail
wanted=(buildah podman runc mmdebstrap)
missing=()
for name in "${wanted[@]}"; do command -v "$name" > /dev/null || missing+=("$name"); done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "${1:-}" = --check ]; then
  echo "The container tests need ${missing[*]}. Install them with \`sudo make e2e-system\`, or leave these tests out with E2E_CONTAINER=skip." >&2
  exit 1
fi
[ "$(id -u)" = 0 ] || { echo "setup.sh: installing ${missing[*]} needs root" >&2; exit 1; }
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
