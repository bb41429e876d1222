#!/bin/bash
# Run the tests on several servers at once: test.sh python "server ..." arguments of pytest ...
# The first server's are shown as they go, those of the others when they have ended.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=$1
read -ra servers <<<"$2"
shift 2

paths=()
for server in "${servers[@]}"; do
    path=$(command -v "$server") || { echo "no such server: $server"; exit 1; }
    paths+=("$(realpath -s "$path")")
done

logs=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
    wait
    exit 130
}
trap 'rm -rf "$logs"' EXIT
trap stop INT TERM

run() {
    local path=$1
    shift
    echo "== tests on $("$path" --version)"
    GEARTRAIN_SERVER=$path exec "$python" -m pytest tests "$@"
}

for i in "${!paths[@]}"; do
    if ((i == 0)); then
        run "${paths[i]}" "$@" &
    else
        run "${paths[i]}" "$@" >"$logs/$i" 2>&1 &
    fi
    pids+=($!)
done
failed=0
for i in "${!pids[@]}"; do
    wait "${pids[i]}" || failed=1
    if ((i > 0)); then cat "$logs/$i"; fi
done
exit "$failed"
