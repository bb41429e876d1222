#!/bin/bash
# Fetch the servers of newer Debian releases into servers/, start each one once and see that it answers.
# Debian testing is in motion: what cannot be had from it is reported and skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/tools/fetch.sh

libraries=(libc6 libstdc++6 libgcc-s1 libjemalloc2 libssl3t64 libsystemd0 liblzf1 libatomic1 libcap2 libzstd1)

case $(release) in
bookworm) suites="trixie forky" ;;
trixie) suites="forky" ;;
*) suites="" ;;
esac

for suite in $suites; do
    if fetch "$suite" redis-tools valkey-tools "${libraries[@]}"; then
        name_server "$suite" redis loader
        name_server "$suite" valkey loader
    elif [ "$suite" = forky ]; then
        echo "servers: nothing from $suite today, going on without" >&2
    else
        exit 1
    fi
done

answers() {
    local server=$1 folder port pid i
    folder=$(mktemp -d)
    port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$server" --port "$port" --bind 127.0.0.1 --dir "$folder" --save '' --logfile "$folder/log" &
    pid=$!
    for i in {1..50}; do
        if [ "$(redis-cli -p "$port" ping 2>/dev/null)" = PONG ]; then
            kill "$pid" && wait "$pid"
            rm -rf "$folder"
            return 0
        fi
        sleep 0.1
    done
    kill "$pid" 2>/dev/null || true
    cat "$folder/log" >&2
    rm -rf "$folder"
    return 1
}

for server in servers/{redis,valkey}-[0-9]*/*-server; do
    [ -x "$server" ] || continue
    answers "$PWD/$server" || { echo "servers: $server does not answer" >&2; exit 1; }
    echo "servers: $server answers"
done
