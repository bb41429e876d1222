# Sourced: servers of other Debian releases, unpacked under servers/ beside the machine's own, which stays as it is.
# All functions run in the project's top folder.

release() { (. /etc/os-release && echo "${VERSION_CODENAME:-sid}"); }

machine() { echo "$(uname -m)-linux-gnu"; }

# The mirror this machine uses.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Component: main' 'Created-By: Packages' |
        grep -v security | head -n 1
}

keyring() { dpkg -L debian-archive-keyring | grep 'archive-keyring.gpg$' | head -n 1; }

# fetch <suite> <package>...: download and unpack into servers/roots/<suite>, with an apt of its own.
fetch() {
    local suite=$1 root=$PWD/servers/roots/$1 apt=$PWD/servers/apt/$1 deb
    shift
    [ ! -e "$root/.complete" ] || return 0
    echo "servers: fetching $* of Debian $suite"
    rm -rf "$root" "$apt"
    mkdir -p "$root" "$apt"/{state/lists/partial,cache/archives/partial,debs,none}
    echo "deb [signed-by=$(keyring)] $(mirror) $suite main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "$apt/none";
Dir::Etc::Preferences "$apt/none/preferences";
Dir::Etc::PreferencesParts "$apt/none";
Dir::State "$apt/state";
Dir::State::status "/dev/null";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
END
    (
        export APT_CONFIG=$apt/apt.conf
        cd "$apt/debs" && apt-get -qq update && apt-get -qq download "$@"
    ) || return 1
    for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$root" || return 1; done
    rm -rf "$apt"
    touch "$root/.complete"
}

# name_server <suite> redis|valkey [loader]: make servers/<kind>-<version>/ with <kind>-server and <kind>-cli that run
# the unpacked programs; with `loader`, by the release's own loader and libraries (its libc is newer than ours).
name_server() {
    local suite=$1 kind=$2 how=${3:-} root=servers/roots/$1 new version program
    new=$(mktemp -d servers/new.XXXXXX)
    for program in server cli; do
        wrap "$suite" "$kind-$program" "$how" >"$new/$kind-$program"
        chmod +x "$new/$kind-$program"
    done
    chmod 755 "$new"
    version=$("$new/$kind-server" --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p')
    if [ -z "$version" ]; then
        rm -rf "$new"
        echo "servers: $kind of $suite does not start" >&2
        return 1
    fi
    rm -rf "servers/$kind-$version"
    mv "$new" "servers/$kind-$version"
    echo "servers: servers/$kind-$version/$kind-server"
}

# The wrapper's process becomes the server: same pid.
wrap() {
    local suite=$1 program=$2 how=$3 binary lib
    lib=usr/lib/$(machine)
    binary=usr/bin/${program%-server}
    # The server is the program of the tools package under another name.
    case $program in *-server) binary=$binary-check-rdb ;; esac
    echo '#!/bin/bash'
    echo "root=\$(dirname \"\$(readlink -f \"\$0\")\")/../roots/$suite"
    if [ "$how" = loader ]; then
        loader=$(cd "servers/roots/$suite/$lib" && ls ld-linux*.so.*)
        echo "exec \"\$root/$lib/$loader\" --argv0 $program --library-path \"\$root/$lib\" \"\$root/$binary\" \"\$@\""
    else
        echo "exec -a $program \"\$root/$binary\" \"\$@\""
    fi
}

# newest <prefix>: the last of the folders servers/<prefix>*.
newest() { (cd servers && printf '%s\n' "$1"* | sort -V | tail -n 1); }
