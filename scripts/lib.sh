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
