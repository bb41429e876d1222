#!/bin/bash
# build-without-daemon.sh [<argument of buildah> ...]: build the image from docker/Dockerfile by buildah, as root, on a
# Debian machine with Rust. IMAGE names it, SERVER chooses redis-server or valkey-server.
#
# Nothing is pulled from a registry of images: the two images that the Dockerfile starts from are made here, of packages
# from the mirror that this machine uses and of this machine's own Rust toolchain. They are kept for the next time;
# `buildah rmi localhost/geartrain-debian:bookworm` has them made anew. With --layers the steps of the build are kept, too,
# which takes gigabytes and saves minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/tools/fetch.sh

image=${IMAGE:-geartrain}
server=${SERVER:-redis-server}
debian=localhost/geartrain-debian:bookworm
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

[ "$(id -u)" = 0 ] || { echo "build-without-daemon: needs root" >&2; exit 1; }
missing=()
for package in buildah mmdebstrap; do
    command -v "$package" >/dev/null || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "build-without-daemon: installing ${missing[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -y -qq install --no-install-recommends "${missing[@]}"
fi

toolchain=$(rustc --print sysroot)
if [ "$toolchain" = /usr ]; then
    echo "build-without-daemon: Rust comes from the distribution here, a toolchain of rustup is needed" >&2
    exit 1
fi
rust=localhost/geartrain-rust:$(rustc --version | cut -d ' ' -f 2)

have() { buildah inspect --type image "$1" >/dev/null 2>&1; }

# The sources of Debian 12 at the mirrors of this machine.
sources() {
    local security
    security=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' 'Created-By: Packages' |
        grep security | head -n 1) || true
    echo "deb $(mirror) bookworm main"
    echo "deb $(mirror) bookworm-updates main"
    [ -z "$security" ] || echo "deb $security bookworm-security main"
}

# What debian:bookworm-slim is: the required packages and apt, without documentation.
make_debian() {
    local container
    echo "build-without-daemon: making $debian"
    sources | mmdebstrap --quiet --variant=minbase \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' \
        bookworm "$scratch/debian.tar" -
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$scratch/debian.tar" / >/dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd bash "$container"
    buildah commit --quiet --rm "$container" "$debian" >/dev/null
}

# What rust:1-bookworm is for the build stage. It trusts whom this machine trusts: there may be a proxy between.
make_rust() {
    local container root
    echo "build-without-daemon: making $rust of $toolchain"
    container=$(buildah from "$debian")
    root=$(buildah mount "$container")
    tar -C "$toolchain" --exclude=./share -c . | tar -C "$root/usr/local" --no-same-owner -x
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    buildah umount "$container" >/dev/null
    buildah commit --quiet --rm "$container" "$rust" >/dev/null
}

have "$debian" || { make_debian; buildah rmi "$rust" >/dev/null 2>&1 || true; }
have "$rust" || make_rust

# By chroot and on the machine's own network, which needs no container runtime and works inside containers, too. Docker's
# format, since the other has no health check.
buildah build --isolation chroot --network host --format docker \
    --build-arg "DEBIAN=$debian" --build-arg "RUST=$rust" --build-arg "SERVER=$server" \
    --file docker/Dockerfile --tag "$image" "$@" .

cat <<END

The image $image is in the store of buildah and podman. To run it, or to take it to a machine with docker:

    podman run --rm -p 127.0.0.1:6379:6379 $image
    buildah push $image docker-archive:geartrain.tar:$image:latest

END
