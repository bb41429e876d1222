#!/bin/sh
# Start the server with the module. Arguments are a configuration file and options, as redis-server takes them; anything
# else is a command to run instead. The variable GEARTRAIN holds settings of the module: "MaxExecutions 500 colour blue".
set -eu

case ${1:-} in
'' | -*)
    # A container has no loopback to its clients: as in the images of Redis, its network is the wall.
    set -- --protected-mode no "$@"
    ;;
*.conf)
    ;;
*)
    exec "$@"
    ;;
esac

# The settings are words of one line, to be split here.
# shellcheck disable=SC2086
exec redis-server "$@" --loadmodule /usr/local/lib/geartrain/libgeartrain.so ${GEARTRAIN:-}
