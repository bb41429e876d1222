#!/bin/bash
# Install what building and testing need and this machine lacks, from the distribution. Does nothing when all is there.
#
# The servers are taken from the packages redis-tools and valkey-tools, which carry the whole program: the packages
# redis-server and valkey-server add a name for it and a system service, and a service is not wanted here. The name is
# given in servers/bin instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/tools/fetch.sh

packages=(build-essential libclang-dev openssl python3-dev python3-venv python3-cloudpickle python3-numpy python3-pip redis-tools)

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_missing() {
    local missing=() name
    for name; do installed "$name" || missing+=("$name"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "setup: installing ${missing[*]}"
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq install --no-install-recommends "${missing[@]}"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "setup: needs root or sudo to run: $*" >&2; exit 1
    fi
}

if ! command -v apt-get >/dev/null; then
    echo "setup: this is not Debian; install by hand: a C compiler, libclang, Python 3.11+ with headers, venv and numpy," >&2
    echo "setup: redis-server, redis-cli and valkey-server" >&2
    exit 1
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; Rust 1.88 or newer is needed, https://rustup.rs has it" >&2
    exit 1
fi

install_missing "${packages[@]}"

mkdir -p servers/bin
if ! command -v redis-server >/dev/null; then
    ln -sfn "$(command -v redis-check-rdb)" servers/bin/redis-server
fi
if ! command -v valkey-server >/dev/null && [ ! -x servers/bin/valkey-server ]; then
    if [ "$(release)" = bookworm ]; then
        fetch bookworm-backports valkey-tools
        name_server bookworm-backports valkey
        ln -sfn ../"$(newest valkey-8.0)"/valkey-server servers/bin/valkey-server
    else
        install_missing valkey-tools
        ln -sfn "$(command -v valkey-check-rdb)" servers/bin/valkey-server
    fi
fi
