#!/usr/bin/env bash
# setup.sh [build]: what building and testing Pelton needs, found or installed. With `build`, what building alone needs.
#
# Installs Rust itself and its parts through rustup and cargo, into the user's home. Installs system packages only as root
# on a machine with apt; elsewhere it says what is missing and how to get it, all at once, and exits with 1.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../../Cargo.toml")
nextest_version=0.9.151
deny_version=0.20.2
missing=()
# Where rustup and `cargo install` put programs: the Makefile adds it in the same way for what comes after this script.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

say() { printf '%s\n' "$*"; }
lacks() { missing+=("$1"); }

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_updated=
# apt_install PACKAGE...: true where they were installed.
apt_install() {
    can_apt || return 1
    say "installing $*"
    if [ -z "$apt_updated" ]; then
        apt-get update -qq || true
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

compilers() {
    if ! command -v cc >/dev/null || ! command -v c++ >/dev/null || ! command -v make >/dev/null; then
        apt_install build-essential \
            || lacks "C and C++ compilers (the Kafka client and SQLite are C): apt-get install build-essential"
    fi
    if ! pkg-config --exists openssl 2>/dev/null; then
        apt_install pkg-config libssl-dev \
            || lacks "OpenSSL's headers, found by pkg-config: apt-get install pkg-config libssl-dev (macOS: brew install pkgconf openssl)"
    fi
}

# version_at_least WANTED FOUND
version_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

install_rust() {
    command -v curl >/dev/null || apt_install curl ca-certificates || return 1
    say "installing Rust through rustup into ${CARGO_HOME:-$HOME/.cargo}"
    curl --proto '=https' --tlsv1.2 --silent --show-error --fail --retry 2 --max-time 60 https://sh.rustup.rs \
        | sh -s -- -y --quiet --no-modify-path --profile minimal --component rustfmt,clippy && return 0
    say "rustup cannot be fetched; the system's own Rust instead"
    apt_install rustc-web cargo-web rustfmt-web rust-web-clippy rust-web-src lld-22
}

rust() {
    command -v cargo >/dev/null || install_rust || { lacks "Rust $rust_version or later: https://rustup.rs"; return 0; }
    local found
    found=$(rustc --version | sed 's/rustc \([0-9.]*\).*/\1/')
    if ! version_at_least "$rust_version" "$found"; then
        say "Rust $found is here, $rust_version is wanted"
        { command -v rustup >/dev/null && rustup update stable; } \
            || lacks "Rust $rust_version or later ($(command -v rustc) is $found): rustup update stable"
    fi
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        rustup component add rustfmt clippy 2>/dev/null || apt_install rustfmt-web rust-web-clippy \
            || lacks "rustfmt and clippy: rustup component add rustfmt clippy"
    fi
}

# cargo_tool NAME VERSION: a program of cargo's, `cargo NAME`.
cargo_tool() {
    command -v cargo >/dev/null || return 0
    cargo "$1" --version >/dev/null 2>&1 && return 0
    say "installing cargo-$1 $2 (a few minutes, once)"
    cargo install --quiet --locked --debug --version "$2" "cargo-$1" \
        || lacks "cargo-$1: cargo install --locked cargo-$1"
}

# What `pelton plugin build` can use: a Rust toolchain with the Wasm target, or one with the source of its library.
guests_can_be_built() {
    local rustc libdir
    libdir=$(rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null) || libdir=
    if [ -n "$libdir" ] && compgen -G "$libdir/libcore-*.rlib" >/dev/null; then return 0; fi
    for rustc in ${RUSTC:+"$RUSTC"} rustc /usr/bin/rustc; do
        local root
        root=$("$rustc" --print sysroot 2>/dev/null) || continue
        if [ -f "$root/lib/rustlib/src/rust/library/Cargo.lock" ] \
            && { compgen -G "/usr/bin/wasm-ld*" >/dev/null || compgen -G "$root/lib/rustlib/*/bin/rust-lld" >/dev/null; }; then
            return 0
        fi
    done
    return 1
}

guests() {
    guests_can_be_built && return 0
    if command -v rustup >/dev/null; then
        say "adding the Rust target wasm32-unknown-unknown"
        timeout 120 rustup target add wasm32-unknown-unknown >/dev/null 2>&1 || say "rustup cannot fetch it"
        guests_can_be_built && return 0
    fi
    apt_install rustc-web cargo-web rust-web-src lld-22 || true
    guests_can_be_built && return 0
    lacks "a Rust compiler for plugins: rustup target add wasm32-unknown-unknown
    (or, on Debian: apt-get install rustc-web cargo-web rust-web-src lld-22)"
}

# Beside a Docker engine too: some tests stop a Cassandra of their own, and Kafka's tools run on Java.
services() {
    "$here/services.sh" java >/dev/null 2>&1 || apt_install openjdk-17-jre-headless \
        || lacks "Java 17, for Kafka's tools and Cassandra: apt-get install openjdk-17-jre-headless"
    command -v mvn >/dev/null || apt_install maven \
        || lacks "Maven, which fetches Kafka's tools and Cassandra: apt-get install maven"
}

# Plugins in Python are built by a tool, and an example is filled by a client, that go into virtual environments.
python() {
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || apt_install python3-venv \
        || lacks "Python 3.10 or later with venv, for plugins in Python and an example's producer: apt-get install python3-venv"
}

# Counts the instructions that a record costs at the boundary.
valgrind_tool() {
    command -v valgrind >/dev/null || apt_install valgrind libc6-dbg \
        || lacks "valgrind, which counts instructions: apt-get install valgrind libc6-dbg"
}

compilers
rust
if [ "${1:-}" != build ]; then
    cargo_tool nextest "$nextest_version"
    cargo_tool deny "$deny_version"
    guests
    services
    python
    valgrind_tool
fi

if ((${#missing[@]})); then
    say "missing on this machine:" >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 1
fi
