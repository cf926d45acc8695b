# Sourced by ./test and ./demo: makes .venv with this project in it and sets VENV_PYTHON.
# Usage: . tools/venv.sh; make_venv EXTRA   (EXTRA: "dev" or nothing)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "kzpark: $*"
    exit 2
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# The first Python that is new enough: $PYTHON, python3, then the versioned names.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed and none was found (sudo apt install python3.11 python3.11-venv)"
}

# Debian splits venv's pip off into a package of its own.
need_ensurepip() {
    "$1" -c 'import ensurepip' 2>/dev/null && return
    local package
    package="python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    say "kzpark: $1 cannot make virtual environments; installing Debian's $package"
    as_root_apt "$package" >&2 && "$1" -c 'import ensurepip' 2>/dev/null && return
    die "please run: sudo apt install $package"
}

# apt-get install, as root or with a sudo that asks nothing; fails otherwise. The packages'
# services are not started: the tests start their own, on loopback.
as_root_apt() {
    command -v apt-get >/dev/null || return 1
    local sudo=() policy=/usr/sbin/policy-rc.d status=0
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        sudo=(sudo -n)
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update || true
    if [ -e "$policy" ]; then
        policy=
    else
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
        "${sudo[@]}" chmod 755 "$policy"
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
        --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" || status=$?
    [ -z "$policy" ] || "${sudo[@]}" rm -f "$policy"
    return "$status"
}

make_venv() {
    local extra=${1:+[$1]} python stamp wanted
    python=$(find_python) || exit 2
    stamp=.venv/kzpark-installed${1:+-$1}
    wanted=$(
        "$python" -c 'import os, sys; print(sys.version.split()[0], sys.executable, os.getcwd())'
        cat pyproject.toml tools/constraints.txt
    )
    VENV_PYTHON=$PWD/.venv/bin/python
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$VENV_PYTHON" -c 'import worker' 2>/dev/null; then
        return
    fi
    need_ensurepip "$python"
    say "kzpark: installing into .venv (a minute, once)"
    if ! is_new_enough .venv/bin/python || ! [ -e .venv/kzpark-python ] ||
        [ "$(cat .venv/kzpark-python)" != "${wanted%%$'\n'*}" ]; then
        "$python" -m venv --clear .venv || die "could not make .venv"
        printf '%s\n' "${wanted%%$'\n'*}" >.venv/kzpark-python
    fi
    "$VENV_PYTHON" -m pip install -q --disable-pip-version-check \
        -c tools/constraints.txt -e ".$extra" >&2 ||
        die "pip could not install the project; its message is above"
    printf '%s\n' "$wanted" >"$stamp"
}
