# Everything a user or a developer needs; each target does its own set-up on a bare Debian machine with Rust.

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
GUEST_PROFILE ?= guest
GUEST := $(CURDIR)/target/guest/$(HOST)/$(GUEST_PROFILE)/oubliette-guest
TARGET_ENV := $(shell echo $(HOST) | tr 'a-z-' 'A-Z_')
export OUBLIETTE_GUEST := $(GUEST)

.PHONY: guest
# The static programs at a sandbox's edge. A separate target folder: its flags differ from everything else's.
guest:
	CARGO_TARGET_$(TARGET_ENV)_RUSTFLAGS="-C target-feature=+crt-static" \
	  cargo build --quiet --package oubliette-guest --profile $(GUEST_PROFILE) --target $(HOST) --target-dir target/guest
