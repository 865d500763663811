#!/usr/bin/env bash
# build.sh DIR TAG [OPTION...]: build DIR/Dockerfile as TAG, with more options of buildah, in a storage of our own, without an engine and without a registry.
#
# The base is a stand-in: Debian trixie with its Python 3.13, made once and kept. It is not the official python image;
# BASE=docker.io/library/python:3.13-slim uses that one where a registry can be reached.
# CONTAINER_STORE names the storage (default: gatepass/containers in the user's cache). Needs root, and setup.sh.
set -euo pipefail
dir=$1 tag=$2
shift 2
[ "$(id -u)" = 0 ] || { echo "build.sh: building in a chroot needs root" >&2; exit 1; }
work=${CONTAINER_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/gatepass/containers}
stand_in=localhost/gatepass-stand-in:trixie-python3.13
mkdir -p "$work"
# two test runs at once would make the base twice
exec 9> "$work/lock"
flock 9
buildah() { command buildah --storage-driver overlay --root "$work/store" --runroot "$work/run" "$@"; }

make_stand_in() {
  local mirror box root
  mirror=$(sed -nE 's#^(URIs:|deb) *([a-z]+://[^ ]+/debian/?)( .*)?$#\2#p' /etc/apt/sources.list.d/* /etc/apt/sources.list 2> /dev/null | head -n 1 || true)
  mmdebstrap -q --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie "$work/base.tar" "$mirror"
  box=$(buildah from scratch)
  buildah add -q "$box" "$work/base.tar" / > /dev/null
  rm -f "$work/base.tar"
  root=$(buildah mount "$box")
  rm -f "$root/usr/lib/python3.13/EXTERNALLY-MANAGED"
  # as the official image: Python in /usr/local/bin, and the standard library without its bytecode
  for name in python python3 python3.13; do ln -sf /usr/bin/python3.13 "$root/usr/local/bin/$name"; done
  find "$root/usr/lib/python3.13" -name '*.pyc' -delete
  buildah umount "$box" > /dev/null
  buildah config --cmd '["python3"]' --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$box"
  buildah commit -q --rm "$box" "$stand_in" > /dev/null
}

base=${BASE:-$stand_in}
pull=missing
if [ "$base" = "$stand_in" ]; then
  pull=never
  buildah inspect --type image "$stand_in" > /dev/null 2>&1 || make_stand_in
fi

# The certificates that this machine trusts are there for pip alone: a mount is not in the image.
ca=/etc/ssl/certs/ca-certificates.crt
trust=()
[ ! -f "$ca" ] || trust=(--volume "$ca:$ca:ro")
# every change of the sources leaves its layers behind: start afresh (the base stays) before they fill the disk
if [ "$(du -sm "$work/store" | cut -f 1)" -gt 3000 ]; then buildah rmi --prune --force > /dev/null; fi
# docker's format: OCI's knows no HEALTHCHECK
buildah --log-level error bud --quiet --isolation chroot --layers --pull="$pull" --network host --format docker \
  --build-arg BASE="$base" "${trust[@]}" --tag "$tag" "$@" "$dir" > /dev/null
echo "built $tag on $base"
