#!/bin/bash
# cluster.sh start <server> <module> <port>: three shards on loopback, on that port and the next two; says how to go on.
# cluster.sh stop: ends them.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/target/cluster

# Is the server that answers on the port of the shard in folder $1 the one we started?
running() {
    [ -s "$1/pid" ] &&
        redis-cli -p "$(basename "$1")" info server 2>/dev/null | grep -q "^process_id:$(cat "$1/pid")\b"
}

# The folders of our shards that run.
shards() {
    local shard
    for shard in "$folder"/[0-9]*; do
        ! running "$shard" || echo "$shard"
    done
}

stop() {
    local shard pid pids=()
    for shard in $(shards); do pids+=("$(cat "$shard/pid")"); done
    [ ${#pids[@]} -gt 0 ] || return 1
    kill "${pids[@]}"
    for pid in "${pids[@]}"; do
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    done
}

fail() {
    tail -n 5 "$folder"/[0-9]*/log >&2 || true
    echo "cluster: $1" >&2
    stop || true
    exit 1
}

# wait_for <condition> <what is wrong if it never holds>
wait_for() {
    local _
    for _ in {1..200}; do
        ! "$1" || return 0
        sleep 0.1
    done
    fail "$2"
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

answering() {
    local port
    for port in "${ports[@]}"; do
        [ "$(redis-cli -p "$port" ping 2>/dev/null)" = PONG ] || return 1
    done
}

# Does each shard know all, and see all slots served?
whole() {
    local port info
    for port in "${ports[@]}"; do
        info=$(redis-cli -p "$port" cluster info)
        grep -q '^cluster_state:ok' <<<"$info" && grep -q '^cluster_known_nodes:3\b' <<<"$info" || return 1
    done
}

start() {
    local server=$1 module=$2 port
    ports=("$3" $(($3 + 1)) $(($3 + 2)))
    if [ "$(shards)" = "$(printf '%s\n' "${ports[@]/#/$folder/}")" ] && whole; then
        echo "The cluster runs already, with the module as it was when it started; make cluster-stop ends it."
        usage
        return
    fi
    stop || true
    # The bus of the cluster has ports of its own, by default 10000 further on: where outgoing connections have theirs.
    for port in "${ports[@]}" $(($3 + 100)) $(($3 + 101)) $(($3 + 102)); do
        ! taken "$port" || { echo "cluster: somebody else listens on port $port" >&2; exit 1; }
    done
    rm -rf "$folder"
    for port in "${ports[@]}"; do
        mkdir -p "$folder/$port"
        "$server" --port "$port" --bind 127.0.0.1 --dir "$folder/$port" --save '' --daemonize yes \
            --cluster-enabled yes --cluster-port $((port + 100)) \
            --pidfile "$folder/$port/pid" --logfile "$folder/$port/log" --loadmodule "$module"
    done
    wait_for answering "a server did not start"
    # It waits for ever for a server that has ended.
    timeout 60 redis-cli --cluster create "${ports[@]/#/127.0.0.1:}" --cluster-yes >"$folder/create.log" 2>&1 ||
        { cat "$folder/create.log" >&2; fail "the servers did not become a cluster"; }
    wait_for whole "the cluster is not whole"
    echo
    echo "A cluster of three shards with geartrain runs on 127.0.0.1, ports ${ports[*]}."
    usage
}

usage() {
    cat <<END

    redis-cli -c -p ${ports[0]} SET foo bar
    redis-cli -p ${ports[0]} RG.PYEXECUTE "GB('ShardsIDReader').run()"
    redis-cli -p ${ports[0]} RG.PYEXECUTE "GB().map(lambda r: r['key']).run()"

With -c redis-cli goes on to the shard that has the key; RG.PYEXECUTE may be sent to any shard. The servers' logs are
$folder/*/log. To stop them:

    make cluster-stop

END
}

case ${1:-} in
start) shift; start "$@" ;;
stop) stop && echo "cluster: stopped" || echo "cluster: nothing is running" ;;
*) echo "usage: $0 start <server> <module> <port> | stop" >&2; exit 2 ;;
esac
