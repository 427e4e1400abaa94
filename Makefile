# All commands for contributors. CI runs `make check` only.
.DEFAULT_GOAL := help
CARGO ?= cargo
tool   = $(or $(shell command -v $(1)),target/tools/bin/$(1))
# If the test $(1) fails: as root, installs the Debian packages $(2); otherwise prints the message
# $(3) and what to install. RUNLEVEL=1 keeps the packages from starting services.
debian = @{ $(1); } >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	else echo "$(strip $(3)) Install: sudo apt-get install $(2)"; fi
MSRV  := $(shell sed -n 's/^rust-version = "\([^"]*\)".*/\1/p' Cargo.toml)

## Daily work

# The profile `quick` compiles faster than the release that `make dist` builds.
run: ## Build the server and run the demo and the lab on http://127.0.0.1:8844
	$(CARGO) run --profile quick --locked -- serve --lab --durable-streams --durable-total 64MiB

# Most tests wait for a browser or a deadline, so four run on each core.
test: browser curl engines promtool python proxy redis systemd ## Run all tests, some of them in a real browser
	RUST_TEST_THREADS=$$((4 * $$(nproc))) $(CARGO) test --locked --no-fail-fast

fmt: ## Format the code
	$(CARGO) fmt

## Before a commit

check: fmt-check lint features licences test stack clients doc ## Run everything that CI checks
	@echo "check: passed"

fmt-check: ## Fail if `make fmt` would change a file
	$(CARGO) fmt --check

lint: ## Run Clippy on every target; warnings are errors
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Crates that only some features may bring, and the crates that the other features must not.
HEAVY := clap|jsonwebtoken|mio|plotters|redb|redis|ring|tungstenite|ureq|urlpattern

features: $(call tool,cargo-hack) ## Check that each feature compiles alone and brings only crates of its own
	$< hack check --package threadcast --each-feature --no-dev-deps --exclude-features loom,fuzzing
	@check() { brought=$$($(CARGO) tree --locked --package threadcast --edges no-dev --prefix none \
	    --no-default-features --features "$$1" | sed 's/ .*//' | sort -u | grep -xE '$(HEAVY)' | grep -vxE "$$2"); \
	  [ -z "$$brought" ] || { echo "the feature '$$1' brings" $$brought; exit 1; }; }; \
	check '' none; check server none; check demo tungstenite; check redb redb; \
	check redis 'redis|ring'; check mercure 'jsonwebtoken|ring|urlpattern'; check client 'ring|ureq'; \
	check cli 'clap|jsonwebtoken|mio|redb|redis|ring|tungstenite|ureq|urlpattern'

licences: $(call tool,cargo-deny) ## Check the licences, names and sources of the dependencies
	$< --locked check licenses bans sources

doc: ## Build the documentation; broken links are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

## Occasionally

proxies: proxy ## Test streams through Debian's nginx, Caddy, HAProxy and Apache
	$(CARGO) test --locked --test slow -- proxies:: --test-threads 1

cluster: ## Run three nodes that share a Redis behind HAProxy, until Ctrl-C (docs/cluster.md)
	$(call debian,command -v redis-server && command -v haproxy,redis-server haproxy,Redis or HAProxy is missing.)
	$(CARGO) build --profile quick --locked --bin threadcast
	packaging/cluster

model: ## Check every interleaving of the handover between threads (loom)
	$(CARGO) test --locked --lib --features loom interleavings

browser: ## Install Chromium and Firefox for the browser tests (as root on Debian)
	$(call debian,command -v chromium || command -v chromium-browser || command -v google-chrome,chromium,\
	  Chromium is missing; its tests will be skipped.)
	$(call debian,command -v firefox-esr || command -v firefox,firefox-esr,\
	  Firefox is missing; its tests will be skipped.)

curl: ## Install curl and openssl for the test of the documents (as root on Debian)
	$(call debian,command -v curl && command -v openssl,curl openssl,\
	  curl or openssl is missing; the documents will not be tested.)

proxy: ## Install nginx, Caddy, HAProxy and Apache for the tests (as root on Debian)
	$(call debian,command -v nginx && command -v caddy && command -v haproxy && command -v apache2 && command -v openssl,\
	  nginx-light caddy haproxy apache2 openssl curl,Some proxies are missing; their tests will be skipped.)

engines: ## Install Node.js and npm for the lab and axe-core (as root on Debian)
	$(call debian,command -v node && command -v npm,nodejs npm,\
	  Node.js or npm is missing; tests of the lab and of accessibility will be skipped.)

systemd: ## Install systemd-analyze for the test of the units (as root on Debian)
	$(call debian,command -v systemd-analyze,systemd,systemd-analyze is missing; a test will be skipped.)

redis: ## Install Redis for the tests of several nodes (as root on Debian)
	$(call debian,command -v redis-server && command -v openssl,redis-server openssl,\
	  Redis or openssl is missing; the tests of several nodes will be skipped.)

fonts: ## Install a Chinese font for the screenshots (as root on Debian)
	$(call debian,fc-list :lang=zh | grep .,fontconfig fonts-wqy-zenhei,A Chinese font is missing; the screenshots will show boxes.)

screenshots: browser fonts ## Take screenshots of the pages, in target/screenshots and docs/*.png
	$(CARGO) test --locked --test browser -- screenshots:: --ignored --test-threads 1

# The tables of docs/threads.md are those of target/lab/report.html, from the same run.
plots: engines proxy lab ## Measure the plots in docs/plots, for 15 minutes on an idle machine
	cp target/lab/*.svg docs/plots/

axe: ## Fetch axe-core for the accessibility tests, with npm
	@mkdir -p target/axe && cd target/axe && npm install --silent --no-audit --no-fund --no-save axe-core@4

python: ## Install Python and pip for the test with a Mercure client (as root on Debian)
	$(call debian,command -v python3 && python3 -m pip --version,python3 python3-pip,\
	  Python or pip is missing; a test will be skipped.)

pymcure: ## Fetch the Mercure client for that test, with pip
	@python3 -m pip install -q --disable-pip-version-check --target target/pymcure requests sseclient-py PyJWT
	@python3 -m pip install -q --disable-pip-version-check --target target/pymcure --no-deps pymcure==0.0.1.1.3

grafana: ## Fetch Grafana's schema for the test of the dashboard, with npm
	@mkdir -p target/grafana && cd target/grafana && \
	  npm install --silent --no-audit --no-fund --no-save @grafana/schema@13 typescript@5

promtool: ## Install promtool and faketime for several tests (as root on Debian)
	$(call debian,command -v promtool && command -v faketime,prometheus faketime,\
	  promtool or faketime is missing; some tests will be skipped.)

stack: ## Send every route its worst input, and measure the stack use of its thread
	$(CARGO) test --locked --profile quick --test stack

attack: ## Run all attacks at once beside 1,000 clients, for two minutes (ATTACK=SECONDS)
	ATTACK=$(or $(ATTACK),120) $(CARGO) test --profile quick --locked --test load -- attack:: --nocapture

clients: target/clients/complete ## Run client libraries from npm and PyPI against the server (the table of docs/clients.md)
	$(CARGO) test --locked --test slow -- clients:: --ignored --nocapture

# sseclient and sseclient-py contain a module of the same name, so sseclient gets its own folder.
target/clients/complete: tests/slow/clients/package-lock.json tests/slow/clients/requirements.txt
	$(call debian,command -v node && command -v npm && python3 -m pip --version,nodejs npm python3 python3-pip,\
	  Node.js or npm or Python or pip is missing.)
	@mkdir -p target/clients && cp tests/slow/clients/package.json tests/slow/clients/package-lock.json target/clients
	@cd target/clients && npm ci --silent --no-audit --no-fund
	@python3 -m pip install -q --disable-pip-version-check --target target/clients/python --upgrade \
	  -r tests/slow/clients/requirements.txt
	@python3 -m pip install -q --disable-pip-version-check --target target/clients/python-sseclient --upgrade \
	  --no-deps sseclient==0.0.27
	@touch $@

conformance: engines ## Run the conformance tests of Durable Streams against the server (npm)
	$(CARGO) test --locked --test it -- durable::suite --nocapture

target/durable-streams/complete: tests/it/durable/package-lock.json $(wildcard tests/it/durable/*.mjs examples/*.mjs)
	@mkdir -p $(@D) && cp tests/it/durable/package.json tests/it/durable/package-lock.json tests/it/durable/*.mjs \
	  examples/*.mjs $(@D)
	@cd $(@D) && npm ci --silent --no-audit --no-fund
	@touch $@

target/durable-streams-python/complete: tests/it/durable/requirements.txt
	@python3 -m pip install -q --disable-pip-version-check --target $(@D) --upgrade -r $<
	@touch $@

slow: ## Test a client that vanishes without closing its connection (40 s)
	$(CARGO) test --locked --test slow -- vanishing:: --ignored --nocapture

soak: ## Connect and disconnect clients for half an hour, and look for leaks (SOAK=SECONDS)
	SOAK=$(SOAK) $(CARGO) test --release --locked --test slow -- soak:: --ignored --nocapture

durable: ## Run random operations on durable streams, with kill -9, for half an hour (DURABLE=SECONDS)
	DURABLE=$(or $(DURABLE),1800) $(CARGO) test --profile quick --locked --test slow -- durable:: --nocapture

# A stack overflow ends the process before libFuzzer saves the input; the input is then in
# fuzz/artifacts/TARGET.last.
fuzz: ## Fuzz each parser of network input for a minute (FUZZ_SECONDS=60; needs cargo-fuzz and g++)
	@for target in $$(ls fuzz/corpus); do \
	  mkdir -p fuzz/grown/$$target fuzz/artifacts; \
	  THREADCAST_FUZZ_LAST=$(CURDIR)/fuzz/artifacts/$$target.last $(CARGO) fuzz run -s none $$target fuzz/grown/$$target fuzz/corpus/$$target -- -timeout=10 \
	    -max_total_time=$(or $(FUZZ_SECONDS),60) -verbosity=0 -print_final_stats=1 || exit 1; \
	done

bench: ## Compare with Node.js, Go, axum, nchan and others, as far as installed, on one core and on two
	$(CARGO) bench --locked --bench field -- $(BENCH)
	$(CARGO) bench --locked --bench field -- --server-cores 0,1 --workloads 1k-at-50,1k-at-10k $(BENCH)

man: ## Write the manual to target/man, and shell completions to target/completions
	$(CARGO) run --locked --example manual -- target

lab: ## Measure what a thread per client costs; writes target/lab/report.html
	$(CARGO) run --release --locked -- lab --out target/lab $(LAB)

deny: $(call tool,cargo-deny) ## Check licences and security advisories, from the network
	$< --locked check

dist: man $(call tool,cargo-deb) ## Build a static binary and a Debian package in target/dist
	CARGO=$(CARGO) CARGO_DEB=$(abspath $(lastword $^)) packaging/build

# rustup has the standard library for arm64, and Debian the cross compiler.
ARM64 := aarch64-unknown-linux-gnu
dist-arm64: man $(call tool,cargo-deb) ## Cross-compile both for arm64, in target/dist/arm64 (needs rustup)
	$(call debian,command -v aarch64-linux-gnu-gcc && ls /usr/aarch64-linux-gnu/lib/libc.a,\
	  gcc-aarch64-linux-gnu libc6-dev-arm64-cross,The cross compiler for arm64 is missing.)
	rustup target add $(ARM64)
	CARGO=$(CARGO) CARGO_DEB=$(abspath $(lastword $^)) packaging/build $(ARM64)

arm64-check: dist-arm64 ## Run that binary under qemu, and check its package with lintian
	$(call debian,command -v qemu-aarch64 && command -v lintian,qemu-user lintian,qemu-aarch64 or lintian is missing.)
	$(CARGO) test --locked --test it -- package::arm64 --include-ignored --nocapture

image: dist ## Build the image of each binary in target/dist, with Docker or Buildah
	$(call debian,docker info || command -v buildah,buildah,Neither a running Docker nor Buildah is there.)
	packaging/image

dist-check: image ## Check the package, the image, and `cargo install` from the packaged crate
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    lintian strace systemd >/dev/null; \
	else \
	  echo "This needs root on Debian, and: apt-get install lintian strace systemd"; exit 1; \
	fi
	$(CARGO) test --locked --test it -- package:: --include-ignored --skip arm64 --nocapture

# Tools that the system lacks are built once, unoptimised, which takes half the time of an optimised
# build.
target/tools/bin/%:
	$(CARGO) install --locked --debug --root target/tools $*

msrv: ## Build with the oldest supported Rust (needs rustup)
	rustup run $(MSRV) $(CARGO) check --locked --all-targets

help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } \
	  /^## /           { printf "\n%s\n", substr($$0, 4) } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: plots arm64-check dist-arm64 grafana image run test stack attack clients proxy engines systemd fmt check fmt-check lint doc browser curl redis screenshots promtool python pymcure slow soak durable fuzz axe fonts model proxies cluster bench lab man licences deny dist dist-check msrv help
