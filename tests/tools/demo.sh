#!/bin/bash
# demo.sh start <server> <module> <port>: a server on loopback with sample data; runs functions and shows their results.
# demo.sh stop: ends it.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/target/demo

# Is the server that answers on the noted port the one we started?
running() {
    [ -s "$folder/pid" ] &&
        redis-cli -p "$(cat "$folder/port")" info server 2>/dev/null | grep -q "^process_id:$(cat "$folder/pid")\b"
}

stop() {
    local pid
    running || return 1
    pid=$(cat "$folder/pid")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

# The first port from $1 on that nobody listens on.
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

cli() { redis-cli -p "$port" "$@"; }

load() {
    cli >/dev/null <<'END'
HSET person:1 name "Rick Sanchez" age 70
HSET person:2 name "Morty Smith" age 14
HSET person:3 name "Summer Smith" age 17
HSET person:4 name "Beth Smith" age 35
HSET person:5 name "Shrimply Pibbles" age 87
SET foo bar
SET visits 42
RPUSH colours red green blue
SADD tags new old
XADD sensor * temperature 21
END
}

# show <heading>: run the script on stdin and print both.
show() {
    local script reply
    script=$(cat)
    printf '\n%s\n\n' "$1"
    sed 's/^/    /' <<<"$script"
    reply=$(cli --no-raw RG.PYEXECUTE "$script")
    printf '\n  answers\n\n'
    sed 's/^/    /' <<<"$reply"
    if grep -q '^(error)\|Traceback' <<<"$reply"; then
        echo "demo: that is not what was expected; the server's log is $folder/log" >&2
        stop
        exit 1
    fi
}

start() {
    local server=$1 module=$2
    stop || true
    rm -rf "$folder"
    mkdir -p "$folder"
    port=$(free_port "$3")
    echo "$port" >"$folder/port"
    "$server" --port "$port" --bind 127.0.0.1 --dir "$folder" --save '' --daemonize yes \
        --pidfile "$folder/pid" --logfile "$folder/log" --loadmodule "$module"
    for _ in {1..100}; do
        [ "$(cli ping 2>/dev/null)" != PONG ] || break
        sleep 0.1
    done
    if [ "$(cli ping 2>/dev/null)" != PONG ]; then
        cat "$folder/log" >&2
        echo "demo: the server did not start" >&2
        exit 1
    fi
    load
    echo
    echo "A server with geartrain runs on 127.0.0.1:$port. It holds these keys:"
    echo
    cli keys '*' | sort | paste -sd ' ' | sed 's/^/    /'
    echo
    echo "person:1 to person:5 are hashes, such as"
    echo
    cli --no-raw hgetall person:1 | sed 's/^/    /'
    echo
    echo "RG.PYEXECUTE runs a Python function over them, inside the server. The answer has two parts:"
    echo "the results and the errors."

    show "The average age: read the keys, take the age of each, and the mean of them." <<'END'
GB('KeysReader').map(lambda r: r['value']['age']).avg().run('person:*')
END
    show "How many people has each family?" <<'END'
GB('KeysReader').countby(lambda r: r['value']['name'].split()[1]).run('person:*')
END
    show "Functions may be longer, and write. This one stores who is of age in a sorted set." <<'END'
def of_age(record):
    return int(record['value']['age']) >= 18

def store(record):
    person = record['value']
    execute('ZADD', 'adults', person['age'], person['name'])

GB('KeysReader').filter(of_age).foreach(store).count().run('person:*')
END
    echo
    echo "  and afterwards ZRANGE adults 0 -1 WITHSCORES"
    echo
    cli --no-raw zrange adults 0 -1 withscores | sed 's/^/    /'

    cat <<END

Go on by yourself: paste these, or write your own.

    redis-cli -p $port RG.PYEXECUTE "GB().map(lambda r: r['key'] + ' is a ' + r['type']).sort().run()"
    redis-cli -p $port RG.PYEXECUTE "GB('KeysOnlyReader').count().run('person:*')"
    redis-cli -p $port RG.PYEXECUTE "GB().run('person:*')" UNBLOCKING
    redis-cli -p $port RG.DUMPEXECUTIONS
    redis-cli -p $port -x RG.PYEXECUTE < my_function.py

README.md lists the commands, readers and operations. The server's log is
$folder/log. To stop the server:

    make demo-stop

END
}

case ${1:-} in
start) shift; start "$@" ;;
stop) stop && echo "demo: stopped" || echo "demo: nothing is running" ;;
*) echo "usage: $0 start <server> <module> <port> | stop" >&2; exit 2 ;;
esac
