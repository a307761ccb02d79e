#!/usr/bin/env bash
# Builds kube-apiserver and etcd from their Go modules, once for each version,
# and prints the folder that holds them: a value for KUBEBUILDER_ASSETS.
# KUBEBUILDER_ASSETS, when set, is printed instead and nothing is built.
set -euo pipefail

if [[ -n "${KUBEBUILDER_ASSETS:-}" ]]; then
	for name in kube-apiserver etcd; do
		if [[ ! -x "$KUBEBUILDER_ASSETS/$name" ]]; then
			echo "KUBEBUILDER_ASSETS is set to $KUBEBUILDER_ASSETS, which holds no executable $name: correct it, or unset it to have both built" >&2
			exit 1
		fi
	done
	echo "$KUBEBUILDER_ASSETS"
	exit 0
fi

cd "$(dirname "${BASH_SOURCE[0]}")"

# The key is every input of the binary, so that a change of one builds anew.
kubernetes=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
etcd=$(go list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3)
inputs=$(cat go.mod go.sum main.go build.sh | cksum | cut -d' ' -f1)
target="${XDG_CACHE_HOME:-$HOME/.cache}/aether/controlplane/$kubernetes-etcd-$etcd-$(go env GOVERSION)-$(go env GOARCH)-$inputs"

mkdir -p "$(dirname "$target")"
# Whoever comes while another builds waits, and finds it done.
exec 9>"$target.lock"
flock 9

if [[ ! -x "$target/kube-apiserver" ]]; then
	echo "Building kube-apiserver $kubernetes and etcd $etcd from source into $target." >&2
	echo "This happens once: about 5 minutes on 2 cores with an empty Go cache, seconds with a warm one." >&2
	started=$SECONDS
	building=$(mktemp -d "$(dirname "$target")/building.XXXXXX")
	trap 'rm -rf "$building"' EXIT
	version=${kubernetes#v}
	major=${version%%.*}
	minor=${version#*.}
	minor=${minor%%.*}
	# Without its version set at link time the server reports a placeholder that
	# clients fail to parse.
	component=k8s.io/component-base/version
	CGO_ENABLED=0 go build -trimpath -o "$building/controlplane" -ldflags "-s -w \
		-X $component.gitVersion=$kubernetes -X $component.gitMajor=$major -X $component.gitMinor=$minor" .
	ln -s controlplane "$building/kube-apiserver"
	ln -s controlplane "$building/etcd"
	# Renamed in one step: a build that was cut off leaves nothing that looks done.
	chmod 755 "$building"
	mv -T "$building" "$target"
	echo "Built in $((SECONDS - started)) s." >&2
fi
echo "$target"
