# Everything a contributor runs, in one place. CI runs `make check` and nothing else.
.DEFAULT_GOAL := help
CARGO ?= cargo
tool   = $(or $(shell command -v $(1)),target/tools/bin/$(1))
# Unless $(1) succeeds: installs Debian's packages $(2), or says $(3) and what to install. RUNLEVEL=1 starts no service.
debian = @{ $(1); } >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	else echo "$(strip $(3)) Install: sudo apt-get install $(2)"; fi
MSRV  := $(shell sed -n 's/^rust-version = "\([^"]*\)".*/\1/p' Cargo.toml)

## Daily work

run: ## Build and serve the demo on http://127.0.0.1:8844, with the lab
	$(CARGO) run --release --locked -- serve --lab

# Most tests wait: for a browser, for a deadline. Two to a core wait side by side.
test: browser curl promtool python redis ## Run all tests, in a real browser too
	RUST_TEST_THREADS=$$((2 * $$(nproc))) $(CARGO) test --locked --no-fail-fast

fmt: ## Format the code
	$(CARGO) fmt

## Before a commit

check: fmt-check lint licences test stack clients doc ## Everything CI checks, fastest first
	@echo "check: all good"

fmt-check: ## Fail if `make fmt` would change anything
	$(CARGO) fmt --check

lint: ## Clippy on every target, warnings are errors
	$(CARGO) clippy --locked --all-targets -- -D warnings

licences: $(call tool,cargo-deny) ## Licences, names and sources of the dependencies
	$< --locked check licenses bans sources

doc: ## Build the documentation, broken links are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

## Now and then

proxies: ## Stream by way of nginx, Caddy, HAProxy and Apache, as Debian packages them
	$(call debian,command -v nginx && command -v caddy && command -v haproxy && command -v apache2 && command -v openssl,\
	  nginx-light caddy haproxy apache2 openssl curl,Not all of them are here: theirs will be skipped.)
	$(CARGO) test --locked --test proxies -- --test-threads 1

cluster: ## Run three nodes that share a Redis, behind HAProxy, until Ctrl-C: docs/cluster.md
	$(call debian,command -v redis-server && command -v haproxy,redis-server haproxy,Not both of them are here.)
	$(CARGO) build --release --locked --bin threadcast
	packaging/cluster

model: ## Try every interleaving of the hand-over between threads (loom)
	$(CARGO) test --locked --lib --features loom interleavings

browser: ## Install Chromium and Firefox for the tests of the pages, where that is possible
	$(call debian,command -v chromium || command -v chromium-browser || command -v google-chrome,chromium,\
	  No Chromium here: the tests of the page will be skipped.)
	$(call debian,command -v firefox-esr || command -v firefox,firefox-esr,\
	  No Firefox here: its tests will be skipped.)

curl: ## Install curl and openssl for the test that follows the documents, where that is possible
	$(call debian,command -v curl && command -v openssl,curl openssl,\
	  No curl and openssl here: the documents will not be tried.)

redis: ## Install Redis for the tests of nodes that share one, where that is possible
	$(call debian,command -v redis-server && command -v openssl,redis-server openssl,\
	  No Redis here: the tests of nodes that share one will be skipped.)

fonts: ## Install a Chinese font for the pictures, where that is possible
	$(call debian,fc-list :lang=zh | grep .,fontconfig fonts-wqy-zenhei,No Chinese font here: there will be boxes.)

screenshots: browser fonts ## Take pictures of the page, to be looked at: target/screenshots, docs/*.png
	$(CARGO) test --locked --test screenshots -- --ignored

axe: ## Fetch axe-core for the tests of the page, with npm
	@mkdir -p target/axe && cd target/axe && npm install --silent --no-audit --no-fund --no-save axe-core@4

python: ## Install Python and pip for the test with a Mercure client, where that is possible
	$(call debian,command -v python3 && python3 -m pip --version,python3 python3-pip,\
	  No Python with pip here: a test will be skipped.)

pymcure: ## Fetch a Mercure client for a test, with pip
	@python3 -m pip install -q --disable-pip-version-check --target target/pymcure requests sseclient-py PyJWT
	@python3 -m pip install -q --disable-pip-version-check --target target/pymcure --no-deps pymcure==0.0.1.1.3

promtool: ## Install promtool and faketime for two tests, where that is possible
	$(call debian,command -v promtool && command -v faketime,prometheus faketime,\
	  No promtool or no faketime here: a test will be skipped.)

stack: ## Send every route its worst input, optimized, and measure what is touched of the threads' stacks
	$(CARGO) test --locked --profile quick --test stack

attack: ## Run every attack at once beside 1,000 clients, for two minutes (ATTACK=120: seconds)
	ATTACK=$(or $(ATTACK),120) $(CARGO) test --profile quick --locked --test attack -- --nocapture

clients: target/clients/complete ## Run client libraries from npm and PyPI against the server: the table of docs/clients.md
	$(CARGO) test --locked --test clients -- --ignored --nocapture

# sseclient and sseclient-py have a module of the same name, so one of them has a folder of its own.
target/clients/complete: tests/clients/package-lock.json tests/clients/requirements.txt
	$(call debian,command -v node && command -v npm && python3 -m pip --version,nodejs npm python3 python3-pip,\
	  No Node.js with npm or no Python with pip here.)
	@mkdir -p target/clients && cp tests/clients/package.json tests/clients/package-lock.json target/clients
	@cd target/clients && npm ci --silent --no-audit --no-fund
	@python3 -m pip install -q --disable-pip-version-check --target target/clients/python --upgrade \
	  -r tests/clients/requirements.txt
	@python3 -m pip install -q --disable-pip-version-check --target target/clients/python-sseclient --upgrade \
	  --no-deps sseclient==0.0.27
	@touch $@

slow: ## The tests that take their time: a client that vanishes without a word (40 s)
	$(CARGO) test --locked --test vanishing -- --ignored --nocapture

soak: ## Half an hour of coming and going, after which all is as it was (SOAK=180: seconds)
	SOAK=$(SOAK) $(CARGO) test --release --locked --test soak -- --ignored --nocapture

# A stack overflow ends the process before libFuzzer can save the input: it is then in fuzz/artifacts/TARGET.last.
fuzz: ## Fuzz what reads strangers' bytes: a minute each (FUZZ_SECONDS=600; needs cargo-fuzz, g++)
	@for target in $$(ls fuzz/corpus); do \
	  mkdir -p fuzz/grown/$$target fuzz/artifacts; \
	  THREADCAST_FUZZ_LAST=$(CURDIR)/fuzz/artifacts/$$target.last $(CARGO) fuzz run -s none $$target fuzz/grown/$$target fuzz/corpus/$$target -- -timeout=10 \
	    -max_total_time=$(or $(FUZZ_SECONDS),60) -verbosity=0 -print_final_stats=1 || exit 1; \
	done

bench: ## Measure it beside Node, Go, axum, nchan and a bare send loop (what is installed of them)
	$(CARGO) bench --locked --bench field -- $(BENCH)

man: ## Write the manual to target/man, and what shells complete to target/completions
	$(CARGO) run --locked --example manual -- target

lab: ## Measure what a thread for each client costs here; the report is target/lab/report.html
	$(CARGO) run --release --locked -- lab --out target/lab $(LAB)

deny: $(call tool,cargo-deny) ## The same as `licences`, and the advisories, from the network
	$< --locked check

dist: man $(call tool,cargo-deb) ## A static binary and a Debian package of it, in target/dist
	CARGO=$(CARGO) CARGO_DEB=$(abspath $(lastword $^)) packaging/build

dist-check: dist ## Look at that package with lintian, install it, speak to it as systemd would, purge it
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    lintian strace systemd >/dev/null; \
	else \
	  echo "This takes root on a Debian, with: apt-get install lintian strace systemd"; exit 1; \
	fi
	$(CARGO) test --locked --test package -- --include-ignored --nocapture

# Tools that are not the system's: built once, and unoptimised, for that takes half the time.
target/tools/bin/%:
	$(CARGO) install --locked --debug --root target/tools $*

msrv: ## Build with the oldest Rust that is promised (needs rustup)
	rustup run $(MSRV) $(CARGO) check --locked --all-targets

help: ## Show this help
	@awk 'BEGIN { FS = ":.*## " } \
	  /^## /           { printf "\n%s\n", substr($$0, 4) } \
	  /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run test stack attack clients fmt check fmt-check lint doc browser curl redis screenshots promtool python pymcure slow soak fuzz axe fonts model proxies cluster bench lab man licences deny dist dist-check msrv help
