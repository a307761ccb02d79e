#!/usr/bin/env bash
# Installs Debian packages whose commands are missing:
#
#   hack/debian.sh chromium:/usr/bin/chromium runc:runc
#
# Each argument is a package and what it brings: a path, or a command that is looked
# up in PATH. Does nothing where all is there. Installs as root with apt-get, and
# otherwise says what to install.
set -euo pipefail

if (($# == 0)); then
	echo "usage: ${0##*/} package:command-or-path ..." >&2
	exit 2
fi

# Debian keeps some commands where only root's PATH leads.
PATH=$PATH:/usr/sbin:/sbin

# missing prints the packages, of the arguments, whose command is not there.
missing() {
	local argument
	for argument in "$@"; do
		if [[ $argument != ?*:?* ]]; then
			echo "${0##*/}: $argument is not package:command-or-path" >&2
			return 2
		fi
		command -v "${argument#*:}" >/dev/null || echo "${argument%%:*}"
	done
}

fail() {
	echo "${0##*/}: $1; install it by hand, on Debian: sudo apt-get install --no-install-recommends ${packages[*]}" >&2
	exit 1
}

found=$(missing "$@")
[[ -z $found ]] && exit 0
mapfile -t packages <<<"$found"

[[ $(id -u) == 0 ]] || fail "${packages[*]} is missing, and only root can install"
command -v apt-get >/dev/null || fail "${packages[*]} is missing, and there is no apt-get here"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >"$log" 2>&1; }
install() { quietly install --no-install-recommends "${packages[@]}"; }

echo "installing ${packages[*]}" >&2
# The lists of packages may be missing, or so old that what they name is gone.
if ! install && ! { quietly update && install; }; then
	tail -n 20 "$log" >&2
	fail "apt-get could not install ${packages[*]}"
fi
left=$(missing "$@")
[[ -z $left ]] || fail "apt-get installed ${packages[*]}, and what ${left//$'\n'/, } should bring is still missing"
