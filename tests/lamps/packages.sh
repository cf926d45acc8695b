#!/usr/bin/env bash
# Makes Kamailio with its kazoo and presence modules usable by the lamp tests, which start their
# own on loopback. Exit status: 0 it is there, 1 it is not and could not be installed.
# The packaged service, which would listen on all addresses, is neither started nor enabled.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(kamailio kamailio-kazoo-modules kamailio-presence-modules)
policy=/usr/sbin/policy-rc.d
service=/etc/systemd/system/multi-user.target.wants/kamailio.service

is_there() {
    PATH="$PATH:/usr/sbin" command -v kamailio >/dev/null || return 1
    local modules
    for modules in /usr/lib/*/kamailio/modules; do
        [ -e "$modules/kazoo.so" ] && [ -e "$modules/presence_dialoginfo.so" ] && return
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

is_there && exit
. tools/venv.sh
say "kzpark: installing ${packages[*]} for the lamp tests"
was_enabled=$([ -e "$service" ] && echo yes || true)
if [ ! -e "$policy" ] && as_root true 2>/dev/null; then
    trap 'as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
fi
if ! as_root_apt "${packages[@]}" >&2; then
    say "kzpark: could not install ${packages[*]}"
    exit 1
fi
if [ -z "$was_enabled" ] && [ -e "$service" ]; then
    as_root rm -f "$service"
fi
is_there
