# The verbs of this repository. `make` alone lists them.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt plugins services services-down services-status soak hostile chaos reload-test fuzz bench

# Where rustup and cargo put what tests/harness/setup.sh installs: after all else, so that what was there is used.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Built with a sign of life: from nothing it takes some minutes.
BUILD := cargo build --package pelton
PELTON := cargo run --quiet --package pelton --

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## see records flow: needs no services (ARGS="--seconds 5 --json")
	@tests/harness/setup.sh build >&2
	@$(BUILD)
	@$(PELTON) demo $(ARGS)

test: ## everything: format, lint, plugins, all tests with real Kafka and Cassandra
	@tests/harness/test.sh

lint: ## format check, clippy, documentation, and licences, sources and bans of every dependency
	@cargo fmt --all --check
	@cargo fmt --all --check --manifest-path plugins/Cargo.toml
	@cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
	@cargo fmt --all --check --manifest-path host/benches/plugins/Cargo.toml
	@cargo fmt --all --check --manifest-path tests/plugins/Cargo.toml
	@cargo clippy --workspace --all-targets --quiet -- -D warnings
	@cargo clippy --workspace --all-targets --quiet --manifest-path plugins/Cargo.toml -- -D warnings
	@cargo clippy --workspace --all-targets --quiet --manifest-path host/benches/plugins/Cargo.toml -- -D warnings
	@cargo clippy --quiet --manifest-path tests/fuzz/Cargo.toml -- -D warnings
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --quiet
	@cargo deny --log-level error check licenses bans sources

fmt: ## format all Rust code
	@cargo fmt --all
	@cargo fmt --all --manifest-path plugins/Cargo.toml
	@cargo fmt --manifest-path tests/fuzz/Cargo.toml
	@cargo fmt --all --manifest-path host/benches/plugins/Cargo.toml

plugins: ## build the example plugins and run their cases
	@$(BUILD)
	@$(PELTON) plugin build plugins
	@$(PELTON) plugin test plugins

services: ## start real Kafka and Cassandra: with Docker, or as local Java processes
	@tests/harness/services.sh up

services-down: ## stop what `make services` started, and nothing else
	@tests/harness/services.sh down

services-status: ## say what answers where
	@tests/harness/services.sh status

soak: ## all tests again and again, with many more random cases, for HOURS=1
	@tests/harness/soak.sh $(or $(HOURS),1)

hostile: ## every hostile guest beside a good pipeline: what it got, and what it cost (ARGS="--json spins")
	@cargo run --quiet --package pelton-tests --bin hostile -- $(ARGS)

chaos: ## daemons, brokers, Cassandra, network and disks fail; then all is compared (SEED=7 MINUTES=10 ARGS="--json")
	@tests/harness/setup.sh >&2
	@cargo build --workspace --all-targets >&2
	@$(PELTON) plugin build plugins/shop-orders >&2
	@$$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),3) $(ARGS)

reload-test: ## plugins are replaced while records flow, 1000 times in two million of them (ARGS="--reloads 50 --records 100000 --json")
	@tests/harness/setup.sh >&2
	@tests/harness/services.sh up >&2
	@cargo build --release --workspace --bins >&2
	@release=$$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release \
		&& "$$release/pelton" plugin build --target-dir plugins/target/wasm tests/plugins >&2 \
		&& "$$release/reload" $(ARGS)

fuzz: ## fuzz all that reads bytes from outside, SECONDS=30 a target (TARGET=json; FILE=crash runs one again)
	@SECONDS_EACH=$(or $(SECONDS),30) FILE=$(FILE) tests/harness/fuzz.sh $(TARGET)

bench: ## what Pelton costs, in ratios to native programs; needs `make services` (ARGS="--json", --short, --only drop)
	@tests/harness/bench.sh $(ARGS)
