# make run    builds and serves: with ./trunkline.yaml if there is one, else what is on this machine
# make test   runs every test, with all the set-up it needs
# make test-otlp  the tests of a program built with traces
# make check  format, lints and tests: what CI runs
# make fuzz   broken input for every reader, SECONDS (600) for each, ONLY="json form" for some
# make allocations  how often a small request asks for memory
# make failover  a minute of failures under load, with a table
# make soak   MINUTES (60) of mixed traffic with faults, reloads and cancels, with a table
# make changes   100 reloads and an upgrade under load, with the built-for-speed program
# make test-bench  tests of the load generator in bench/load
# make bench  the benchmark beside HAProxy, nginx, Envoy, LiteLLM and Portkey (installs them)
# make deb    a Debian package, with unit and configuration
# make dist   the binary for packages and benchmarks: fat LTO, slow to build

SHELL := /bin/bash
.DELETE_ON_ERROR:

TARGET := $(CURDIR)/target
TOOLS := $(TARGET)/tools

# Pingora's zlib needs cmake to build: the one on PATH, else the one PyPI carries.
CMAKE := $(shell command -v cmake 2>/dev/null)
ifeq ($(CMAKE),)
CMAKE := $(TOOLS)/cmake/cmake/data/bin/cmake
CMAKE_SETUP := $(CMAKE)
endif
export CMAKE

# pip of the system's python3, into folders of our own; Debian packs it apart from python3
PIP_INSTALL := python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --upgrade
define need_pip
@python3 -m pip --version >/dev/null 2>&1 || { \
  echo "python3 has no pip: installing python3-pip with apt"; \
  { apt-get install -y -q python3-pip || { apt-get update -q && apt-get install -y -q python3-pip; }; } >/dev/null 2>&1; \
} || { echo "apt could not: install python3-pip yourself (or cmake, for make run)"; exit 1; }
endef

.PHONY: run build test test-otlp test-bench allocations fuzz failover changes check fmt lint unit sdk-setup browser-setup redis-setup deploy-tools bench dist schema deb clean soak

run: build
	@exec $(TARGET)/release/trunkline $(ARGS)

build: $(CMAKE_SETUP)
	cargo build --release --locked

$(TOOLS)/cmake/cmake/data/bin/cmake:
	@echo "cmake is not installed: fetching it from PyPI into $(TOOLS)"
	$(need_pip)
	@mkdir -p $(TOOLS)
	$(PIP_INSTALL) --target $(TOOLS)/cmake cmake==4.4.4

# the SDKs that the tests drive Trunkline with, pinned in tests/sdk
SDK := $(TOOLS)/sdk

$(SDK)/python/.done: tests/sdk/requirements.txt
	$(need_pip)
	@rm -rf $(SDK)/python && mkdir -p $(SDK)/python
	$(PIP_INSTALL) --target $(SDK)/python -r tests/sdk/requirements.txt
	@touch $@

$(SDK)/node/.done: tests/sdk/package.json tests/sdk/package-lock.json
	@command -v npm >/dev/null 2>&1 || { \
	  echo "npm is not installed: installing it with apt"; \
	  { apt-get install -y -q npm || { apt-get update -q && apt-get install -y -q npm; }; } >/dev/null 2>&1; \
	} || { echo "apt could not: install npm yourself"; exit 1; }
	@mkdir -p $(SDK)/node
	cp tests/sdk/package.json tests/sdk/package-lock.json $(SDK)/node/
	npm ci --prefix $(SDK)/node --no-audit --no-fund --loglevel=error
	@touch $@

sdk-setup: $(SDK)/python/.done $(SDK)/node/.done

# what drives Chromium over the status page, pinned in tests/browser; without a Chromium the tests
# of the page say so and are skipped
BROWSER := $(TOOLS)/browser

$(BROWSER)/.done: tests/browser/package.json tests/browser/package-lock.json | $(SDK)/node/.done
	@mkdir -p $(BROWSER)
	cp tests/browser/package.json tests/browser/package-lock.json $(BROWSER)/
	npm ci --prefix $(BROWSER) --no-audit --no-fund --loglevel=error
	@touch $@

browser-setup: $(BROWSER)/.done
	@test -x /usr/bin/chromium || { \
	  echo "chromium is not installed: installing it with apt"; \
	  { apt-get install -y -q chromium || { apt-get update -q && apt-get install -y -q chromium; }; } >/dev/null 2>&1; \
	} || echo "apt could not: the tests of the status page are skipped until you install chromium"

# what the tests of `state` run; apt starts one as a service as well where there is an init, and it is
# left alone
redis-setup:
	@command -v redis-server >/dev/null 2>&1 || { \
	  echo "redis-server is not installed: installing it with apt"; \
	  { apt-get install -y -q redis-server || { apt-get update -q && apt-get install -y -q redis-server; }; } >/dev/null 2>&1; \
	} || echo "apt could not: the tests of state are skipped until you install redis-server"

# what the files of deploy/ are checked with; where one cannot be had, its tests are skipped
LINT := $(TOOLS)/lint
PROMETHEUS := $(TOOLS)/prometheus

$(LINT)/.done: tests/tools/requirements.txt
	$(need_pip)
	@rm -rf $(LINT) && mkdir -p $(LINT)
	$(PIP_INSTALL) --target $(LINT) -r tests/tools/requirements.txt || echo "PyPI has no linters for us: the tests of Dockerfile, compose and Kubernetes files are skipped"
	@touch $@

# unpacked, not installed: Debian's package would start a Prometheus
$(PROMETHEUS)/.done:
	@mkdir -p $(PROMETHEUS)
	@if command -v promtool >/dev/null && command -v prometheus >/dev/null; then echo "Prometheus is installed"; else \
	  cd $(PROMETHEUS) && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } >/dev/null 2>&1 \
	  && dpkg -x prometheus_*.deb unpacked && mv unpacked/usr/bin/prometheus unpacked/usr/bin/promtool . && rm -rf unpacked prometheus_*.deb \
	  || echo "apt has no Prometheus for us: the tests of alerts and dashboard are skipped"; \
	fi
	@touch $@

deploy-tools: $(LINT)/.done $(PROMETHEUS)/.done
	@command -v systemd-analyze >/dev/null 2>&1 || { apt-get install -y -q systemd || { apt-get update -q && apt-get install -y -q systemd; }; } >/dev/null 2>&1 \
	  || echo "apt has no systemd for us: the tests of the unit are skipped"

test: $(CMAKE_SETUP) sdk-setup browser-setup redis-setup deploy-tools
	TRUNKLINE_SDK=$(SDK) TRUNKLINE_BROWSER=$(BROWSER) TRUNKLINE_TOOLS=$(TOOLS) cargo test --locked

# traces are a feature that brings no crate, so only our own code is built once more
test-otlp: $(CMAKE_SETUP)
	cargo test --locked --features otlp --lib -- trac otlp collector
	cargo test --locked --features otlp --test it otlp::

# what panics, hangs or does not hold is written to target/fuzz, with the command that replays it
SECONDS ?= 600
CASES ?= 20000
fuzz: $(CMAKE_SETUP)
	PROPTEST_CASES=$(CASES) cargo test --locked --lib props::
	TRUNKLINE_FUZZ_SECONDS=$(SECONDS) TRUNKLINE_FUZZ_TARGETS="$(ONLY)" \
	  cargo test --locked --lib fuzz::run::fuzz -- --ignored --nocapture

allocations: $(CMAKE_SETUP)
	cargo test --release --locked --features counted --test it allocations:: -- --nocapture

# a minute of 200 requests in flight while one box is killed and one falls silent
failover: $(CMAKE_SETUP)
	TRUNKLINE_FAILOVER_SECONDS=60 cargo test --release --locked --test it failover:: -- --nocapture

# all kinds of traffic at once, with faults, reloads and clients that leave; SEED= for the same again
MINUTES ?= 60
soak: $(CMAKE_SETUP)
	TRUNKLINE_SOAK_MINUTES=$(MINUTES) TRUNKLINE_SOAK_SEED=$(SEED) \
	  cargo test --release --locked --test it soak:: -- --nocapture

# reloads under 200 streams and as many requests as come, and an upgrade
changes: $(CMAKE_SETUP)
	cargo test --release --locked --test it a_hundred_reloads -- --nocapture
	cargo test --release --locked --test it an_upgrade_under_load -- --nocapture

# the load generator is a crate of its own
LOAD := --manifest-path bench/load/Cargo.toml

test-bench:
	cargo test --locked $(LOAD) --target-dir $(TARGET)/bench-load

fmt:
	cargo fmt --check
	cargo fmt --check $(LOAD)

lint: $(CMAKE_SETUP)
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features otlp -- -D warnings
	cargo clippy --locked $(LOAD) --target-dir $(TARGET)/bench-load --all-targets -- -D warnings

check: fmt lint test test-otlp test-bench

schema: build
	$(TARGET)/release/trunkline config schema > conf/trunkline.schema.json
	$(TARGET)/release/trunkline config reference > docs/configuration.md

dist: $(CMAKE_SETUP)
	cargo build --profile dist --locked

# a Debian package in target/debian
deb: dist
	deploy/debian/build $(TARGET)/dist/trunkline $(TARGET)/debian

# ARGS=--quick for every lane for a moment
bench: dist
	bench/run $(ARGS)

clean:
	rm -rf $(TARGET)
