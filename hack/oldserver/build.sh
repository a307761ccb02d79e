#!/usr/bin/env bash
# Builds a nats-server that is older than what Aether needs from its Go module, once
# for each version, and prints the file. Tests run it to see how it is told of.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The key is every input of the binary, so that a change of one builds anew.
version=$(go list -m -f '{{.Version}}' github.com/nats-io/nats-server/v2)
inputs=$(cat go.mod go.sum build.sh | cksum | cut -d' ' -f1)
target="${XDG_CACHE_HOME:-$HOME/.cache}/aether/oldserver/$version-$(go env GOVERSION)-$(go env GOARCH)-$inputs"

mkdir -p "$(dirname "$target")"
# Whoever comes while another builds waits, and finds it done.
exec 9>"$target.lock"
flock 9

if [[ ! -x "$target" ]]; then
	echo "Building nats-server $version from source into $target, once: a minute on 2 cores." >&2
	building=$(mktemp "$target.XXXXXX")
	trap 'rm -f "$building"' EXIT
	CGO_ENABLED=0 go build -trimpath -o "$building" github.com/nats-io/nats-server/v2
	# Renamed in one step: a build that was cut off leaves nothing that looks done.
	chmod 755 "$building"
	mv "$building" "$target"
fi
echo "$target"
