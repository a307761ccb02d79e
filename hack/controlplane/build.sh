#!/usr/bin/env bash
# Builds parts of Kubernetes from their Go modules, once for each version, and
# prints the folder that holds them:
#   build.sh        kube-apiserver and etcd: a value for KUBEBUILDER_ASSETS, which,
#                   when set, is printed instead and nothing is built
#   build.sh node   kubelet, kube-controller-manager, kube-scheduler, kube-proxy
set -euo pipefail

case "${1:-}" in
"") binary=controlplane package=. programs=(kube-apiserver etcd) minutes=5 ;;
node) binary=node package=./node programs=(kubelet kube-controller-manager kube-scheduler kube-proxy) minutes=4 ;;
*) echo "build.sh: called with $1: call it with nothing, or with node" >&2; exit 2 ;;
esac

if [[ "$binary" == controlplane && -n "${KUBEBUILDER_ASSETS:-}" ]]; then
	for name in "${programs[@]}"; do
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
inputs=$(cat go.mod go.sum "$package/main.go" build.sh | cksum | cut -d' ' -f1)
target="${XDG_CACHE_HOME:-$HOME/.cache}/aether/$binary/$kubernetes-$(go env GOVERSION)-$(go env GOARCH)-$inputs"

mkdir -p "$(dirname "$target")"
# Whoever comes while another builds waits, and finds it done.
exec 9>"$target.lock"
flock 9

if [[ ! -x "$target/${programs[0]}" ]]; then
	echo "Building ${programs[*]} $kubernetes from source into $target." >&2
	echo "This happens once: about $minutes minutes on 2 cores with an empty Go cache, seconds with a warm one." >&2
	started=$SECONDS
	building=$(mktemp -d "$(dirname "$target")/building.XXXXXX")
	trap 'rm -rf "$building"' EXIT
	version=${kubernetes#v}
	major=${version%%.*}
	minor=${version#*.}
	minor=${minor%%.*}
	# Without its version set at link time a server reports a placeholder that
	# clients fail to parse.
	component=k8s.io/component-base/version
	CGO_ENABLED=0 go build -trimpath -o "$building/$binary" -ldflags "-s -w \
		-X $component.gitVersion=$kubernetes -X $component.gitMajor=$major -X $component.gitMinor=$minor" "$package"
	for name in "${programs[@]}"; do
		ln -s "$binary" "$building/$name"
	done
	# Renamed in one step: a build that was cut off leaves nothing that looks done.
	chmod 755 "$building"
	mv -T "$building" "$target"
	echo "Built in $((SECONDS - started)) s." >&2
fi
echo "$target"
