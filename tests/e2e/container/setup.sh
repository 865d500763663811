#!/usr/bin/env bash
# Install what the container tests need on Debian or Ubuntu: an engine without a daemon, and a way to make a base without a registry.
# Changes the machine, so it is run by hand or by CI, never by a test. Needs root.
set -euo pipefail
wanted=(buildah podman runc mmdebstrap)
missing=()
for name in "${wanted[@]}"; do command -v "$name" > /dev/null || missing+=("$name"); done
[ ${#missing[@]} -gt 0 ] || { echo "nothing to do: ${wanted[*]} are here"; exit 0; }
[ "$(id -u)" = 0 ] || { echo "setup.sh: installing ${missing[*]} needs root" >&2; exit 1; }
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
