#!/usr/bin/env bash
# setup.sh [build]: what building and testing Pelton needs, found or installed. With `build`, what building alone needs.
#
# Installs Rust parts through rustup and cargo. Installs system packages only as root on a machine with apt; elsewhere it
# says what is missing and how to get it, all at once, and exits with 1.
set -euo pipefail

nextest_version=0.9.151
missing=()

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

rust() {
    if ! command -v cargo >/dev/null && [ -f "${CARGO_HOME:-$HOME/.cargo}/env" ]; then
        lacks "cargo on the PATH: . ${CARGO_HOME:-$HOME/.cargo}/env"
    elif ! command -v cargo >/dev/null; then
        lacks "Rust: https://rustup.rs"
    elif ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        rustup component add rustfmt clippy 2>/dev/null || lacks "rustfmt and clippy: rustup component add rustfmt clippy"
    fi
}

nextest() {
    command -v cargo >/dev/null || return 0
    cargo nextest --version >/dev/null 2>&1 && return 0
    say "installing cargo-nextest $nextest_version, the test runner (a few minutes, once)"
    cargo install --quiet --locked --debug --version "$nextest_version" cargo-nextest \
        || lacks "the test runner: cargo install --locked cargo-nextest"
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

has_java_17() {
    local java
    for java in ${PELTON_JAVA_HOME:+"$PELTON_JAVA_HOME/bin/java"} ${JAVA_HOME:+"$JAVA_HOME/bin/java"} \
        "$(command -v java || true)" /usr/lib/jvm/*17*/bin/java; do
        if [ -x "$java" ] && "$java" -version 2>&1 | grep -q 'version "17'; then return 0; fi
    done
    return 1
}

services() {
    command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1 && return 0
    has_java_17 || apt_install openjdk-17-jre-headless \
        || lacks "a Docker engine, or Java 17, for Kafka and Cassandra: apt-get install openjdk-17-jre-headless"
    command -v mvn >/dev/null || apt_install maven \
        || lacks "a Docker engine, or Maven, for Kafka and Cassandra: apt-get install maven"
}

compilers
rust
if [ "${1:-}" != build ]; then
    nextest
    guests
    services
fi

if ((${#missing[@]})); then
    say "missing on this machine:" >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 1
fi
