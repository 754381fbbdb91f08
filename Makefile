# Everything a user or a developer needs; each target does its own set-up on a bare Debian machine with Rust.

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_ENV := $(shell echo $(HOST) | tr 'a-z-' 'A-Z_')
GUEST_PROFILE ?= guest
GUEST_DIR := $(if $(filter dev,$(GUEST_PROFILE)),debug,$(GUEST_PROFILE))
GUEST := $(CURDIR)/target/guest/$(HOST)/$(GUEST_DIR)/oubliette-guest
# The build of `oubliette` embeds this file; the tests of sandboxes use it as it is.
export OUBLIETTE_GUEST := $(GUEST)

# Only builds that people keep know their commit: with it everything that embeds it is built anew after each one.
build demo bench: export OUBLIETTE_COMMIT := $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)

.PHONY: help build demo test conformance agents soak bench dist dist-check fuzz lint tidy guest setup

help:
	@echo 'make demo    run the main job: an agent mends a real repository in a sandbox, and the server is killed half way'
	@echo 'make demo MODEL=local   a small language model, fetched (1.1 GB) and served on this machine, works in a sandbox'
	@echo 'make build   target/release/oubliette, one file to install'
	@echo 'make test    everything that CI runs'
	@echo 'make conformance   the official suite of MCP against the real server, on both wires'
	@echo 'make agents  OpenCode, Codex, Gemini CLI and Claude Code from npm, each driven through gate and sandbox'
	@echo 'make soak    the long forms: the server is killed 1000 times, the power fails 5000 times, 10,000 sessions come and go, 3000 seeds are simulated'
	@echo 'make bench   figures with their method, also in target/bench/figures.json; ONLY="store life" for some'
	@echo 'make dist    target/dist: a release with program, completions, man pages, service, Dockerfile and checksums'
	@echo 'make dist-check   the release of the last commit, made twice in two folders, is the same to the byte'
	@echo 'make fuzz    every parser against made-up input; TIME=300 seconds for each, TARGETS=all'
	@echo 'make lint    format, clippy, structure, licences'

setup:
	@scripts/setup.sh

# The static programs at a sandbox's edge. They have a target folder of their own: their flags differ from everything else's.
# At a fixed address, since relocated tables would be 200 KiB of memory of its own for each of the two in every sandbox.
guest:
	CARGO_TARGET_$(TARGET_ENV)_RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
	  cargo build --quiet --locked --package oubliette-guest --profile $(GUEST_PROFILE) --target $(HOST) --target-dir target/guest

build: guest
	cargo build --locked --release --package oubliette

demo: setup guest
	cargo build --locked --release --package oubliette --package ob-testkit --bins
	@scripts/$(if $(filter local,$(MODEL)),demo-local.sh,demo.sh)

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo xtask tidy
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --log-level error check bans licenses sources; \
	else echo 'cargo deny is not installed: licences and bans are not checked here'; fi

tidy:
	cargo xtask tidy

test: setup guest lint
	cargo build --locked --workspace --bins
	cargo test --locked --workspace --no-fail-fast
	$(CRASH)
	$(CONFORMANCE)

# Of one build that no other target has: with crash points, and with the test tools that the conformance suite of MCP wants
# to find.
SPECIAL = --locked --workspace --features oubliette/failpoints,oubliette/conformance
CRASH = cargo test $(SPECIAL) --test crash -- --nocapture
CONFORMANCE = cargo test $(SPECIAL) --test conformance

conformance: setup guest
	@scripts/clients.sh
	$(CONFORMANCE)

# Node packages of some 1.1 GB, into target/tools/agents.
agents: setup guest
	@scripts/agents.sh
	OUBLIETTE_TEST_AGENTS=target/tools/agents cargo test --locked --package oubliette --test acceptance agents::

soak: setup guest
	OUBLIETTE_CRASH_RUNS=1000 $(CRASH)
	OUBLIETTE_POWER_LOSSES=5000 cargo test --locked --package ob-store --test power
	OUBLIETTE_CHURN_SESSIONS=10000 cargo test --locked --package ob-engine --test it churn
	OUBLIETTE_SIM_SEEDS=3000 cargo test --locked --package ob-engine --test sim no_seed -- --nocapture

bench: setup guest
	cargo build --locked --release --package oubliette
	cargo xtask bench $(ONLY)

dist: setup
	@scripts/dist.sh

dist-check: setup
	@scripts/dist-check.sh

fuzz:
	@scripts/fuzz.sh
