#!/usr/bin/env bash
# Builds the MinIO server with Go where no `minio` is there yet: the project ships its community server as source only.
set -euo pipefail
version=v0.0.0-20260212201848-7aac2a2c5b7c
command -v minio >/dev/null && exit 0
bin=${GOBIN:-${GOPATH:-$HOME/go}/bin}
[ -x "$bin/minio" ] && exit 0
if ! command -v go >/dev/null; then
  echo "meshwork: no minio on the PATH, and no Go to build it with: install either" >&2
  exit 1
fi
echo "building MinIO $version (three to four minutes, once)"
go install "github.com/minio/minio@$version"
