# shellcheck shell=bash
# What the scripts share; sourced, never run.

# The repository, whichever way the script was called.
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
export root
# shellcheck disable=SC2034
target=${CARGO_TARGET_DIR:-$root/target}

if [ -d "${HOME:-/root}/.cargo/bin" ]; then
    PATH=$PATH:${HOME:-/root}/.cargo/bin
fi

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    say "$@"
    exit 1
}

has() {
    command -v "$1" >/dev/null
}

# Runs a command as root: at once, or by sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo -- "$@"
    else
        die "must be root, and there is no sudo: $*"
    fi
}

# Installs those of the named Debian packages that are missing; false where that cannot be done.
install_packages() {
    has apt-get || return 1
    local package missing=()
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    install_quietly "${missing[@]}" || { as_root apt-get -q update >&2 && install_quietly "${missing[@]}"; }
}

# A package's service is not wanted, only its programs.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        made=yes
        printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin $policy
    fi
    local status=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install "$@" >&2 || status=$?
    [ -z "$made" ] || as_root rm -f $policy
    return "$status"
}

# Makes cargo of at least the workspace's rust-version run.
ensure_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
    if ! has cargo && ! has rustup; then
        install_packages rustup || die "there is no Rust toolchain: install Rust $wanted or newer with rustup"
    fi
    if ! rustc --version >/dev/null 2>&1; then
        has rustup || die "there is no Rust toolchain: install Rust $wanted or newer with rustup"
        rustup default stable >&2
    fi
    have=$(rustc --version | cut -d' ' -f2)
    if ! at_least "$have" "$wanted"; then
        has rustup || die "Rust $have is too old: install $wanted or newer with rustup"
        rustup update stable >&2
        rustup default stable >&2
    fi
    # build scripts and procedural macros are linked for this machine
    has cc || install_packages gcc libc6-dev || die "there is no C compiler, which links Rust programs"
}

at_least() {
    [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Whether programs for target $1 can be compiled, its standard library being installed.
ensure_target() {
    has_target "$1" && return
    has rustup || return 1
    rustup target add "$1" >&2 2>/dev/null || return 1
    has_target "$1"
}

has_target() {
    local libraries
    libraries=$(rustc --print target-libdir --target "$1" 2>/dev/null) && [ -d "$libraries" ]
}

# The tools that run at other places, in the C locale's order.
# shellcheck disable=SC2034
far_tools=(lbx-apply lbx-diff lbx-discard lbx-enter lbx-env lbx-ls lbx-name lbx-on lbx-probe lbx-snap llima-box)

# This machine's architecture, by its name in Linux.
architecture() {
    local name
    name=$(uname -m)
    [ "$name" != arm64 ] || name=aarch64
    printf '%s\n' "$name"
}

# The target of the tools that run here; nothing stands for the system's own.
near_target() {
    [ "$(uname -s)" != Linux ] || linux_target "$(architecture)"
}

# The target of static programs for Linux on architecture $1.
linux_target() {
    if ensure_target "$1-unknown-linux-musl"; then
        printf '%s\n' "$1-unknown-linux-musl"
    elif [ "$(uname -s) $(architecture)" = "Linux $1" ]; then
        # static too, only larger: what runs inside an environment must not depend on its libraries
        say "no target $1-unknown-linux-musl: linking the C library of this machine"
        printf '%s\n' "$1-unknown-linux-gnu"
    else
        die "there is no target $1-unknown-linux-musl: install Rust with rustup, which can add it"
    fi
}

# Builds the tools for target $1, as one of the two functions above names it.
build_tools() {
    local build=(cargo build --release --locked --workspace --exclude lbx-tests --bins)
    [ -z "$1" ] || build+=(--target "$1")
    case $1 in
    *-gnu)
        build+=(--config "target.$1.rustflags=['-C', 'target-feature=+crt-static']")
        ;;
    *-musl)
        # Rust's own linker and start files: another system or architecture has no C compiler for this
        [ "$(uname -s)-${1%%-*}" = "Linux-$(architecture)" ] ||
            build+=(--config "target.$1.linker='rust-lld'" --config "target.$1.rustflags=['-C', 'link-self-contained=yes']")
        ;;
    esac
    (cd "$root" && "${build[@]}" >&2)
}

# Where build_tools leaves the tools for target $1.
tools_directory() {
    printf '%s\n' "$target${1:+/$1}/release"
}
