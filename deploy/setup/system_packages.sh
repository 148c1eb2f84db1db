#!/usr/bin/env bash
# Installs Debian packages that are missing, where this user may; says what to install where not.
#   system_packages.sh libraries   what open3d and pymeshlab need to be imported
#   system_packages.sh servers     RabbitMQ and PostgreSQL, for tests and for the native mesh
set -euo pipefail

case "${1:?libraries or servers}" in
  libraries) packages=(libusb-1.0-0 libgl1 libopengl0 libgomp1 libegl1 libx11-6) ;;
  servers) packages=(rabbitmq-server postgresql) ;;
  *) echo "system_packages.sh: no such group: $1" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "meshwork: please install what provides: ${missing[*]}" >&2
  exit 0
fi
if [ "$(id -u)" -eq 0 ]; then as_root=(); elif sudo -n true 2>/dev/null; then as_root=(sudo -n); else
  echo "meshwork: please run: sudo apt-get install ${missing[*]}" >&2
  exit 0
fi

echo "installing ${missing[*]}"
# A server package must not start a server of its own on the usual port.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod 755 $policy
  trap '"${as_root[@]}" rm -f $policy' EXIT
fi
"${as_root[@]}" apt-get update --quiet=2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}" >/dev/null
