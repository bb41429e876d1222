#!/bin/bash
# Install what the tests of this folder need: MariaDB and PostgreSQL from the distribution (as root, else with sudo), and
# rgsync with its drivers into servers/rgsync, where the module finds it by its setting PythonPath. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

requirements=tests/writebehind/requirements.txt
folder=servers/rgsync
# Installing PostgreSQL makes a database and a service for it, unless it is told not to.
no_service=/etc/postgresql-common/createcluster.d/geartrain.conf

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "setup: needs root or sudo to run: $*" >&2; exit 1
    fi
}

install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq install --no-install-recommends "$@"; }

if [ ! -x /usr/sbin/mariadbd ]; then
    echo "setup: installing MariaDB"
    as_root apt-get -qq update
    install mariadb-server-core mariadb-client-core
fi

if ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
    echo "setup: installing PostgreSQL"
    as_root apt-get -qq update
    as_root mkdir -p "$(dirname "$no_service")"
    echo "create_main_cluster = false" | as_root tee "$no_service" >/dev/null
    trap 'as_root rm -f "$no_service"' EXIT
    install postgresql
fi

if ! cmp -s "$requirements" "$folder/.complete"; then
    echo "setup: installing rgsync into $folder"
    rm -rf "$folder"
    # SQLAlchemy 1.4.35, which rgsync asks for, has no wheel for this Python, and its set-up is of the old kind.
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-warn-conflicts \
        --target "$folder" --requirement "$requirements"
    cp "$requirements" "$folder/.complete"
fi
