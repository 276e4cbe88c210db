# Everything that can be done here, by the names that CI uses. Longer steps live in .ci/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-examples test-registry test-aarch64 test-browser test-formats test-storm lint \
        docs package fuzz soak bless ci

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## a real service under load, as version 1.0 and 1.1, profiled; leaves target/demo/
	@examples/rust/service/demo.sh

test: lint test-rust test-storm test-python test-examples test-browser test-aarch64 ## everything; what a missing tool leaves out is said loudly

test-rust: formats-tools symbolize-tools ## unit, integration and doc tests of both crates
	@# Without the Python package, whose features of the core would be everybody's then.
	@.ci/cargo-test.sh --workspace --exclude everprof-python
	@.ci/cargo-test.sh -p everprof --all-features --test symbolize_files --test mount --test push --test delivery

test-examples: ## the example programs, run
	@.ci/examples.sh

test-registry: ## a program from the registry (ripgrep), profiled by two added lines
	@examples/rust/registry.sh

test-browser: ## the flame graph pages in a headless Chromium; pictures in target/browser/
	@core/tests/browser/run.sh

test-aarch64: ## the tests that qemu-user can run, built for aarch64 (unpacks a toolchain into target/, no root)
	@.ci/aarch64.sh

# Our files, read by tools that share nothing with us (core/tests/formats/).
.PHONY: formats-tools
test-formats: formats-tools ## only the tests that read our files with other tools (go tool pprof, Python's protobuf, the schema)
	cargo test -p everprof --test formats --test store

.PHONY: symbolize-tools
symbolize-tools:
	@core/tests/symbolize/tools.sh

formats-tools:
	@core/tests/formats/tools.sh

.PHONY: test-servers
test-servers: ## profiles pushed to real servers and read back: Parca, the OpenTelemetry Collector, Pyroscope's API and Datadog's test agent (wants Go; built once)
	@core/tests/servers/build.sh
	@rm -rf "$${CARGO_TARGET_DIR:-$$PWD/target}/servers/pages"
	@# With the features that the other tests of servers have, so that the crate is not built once more.
	EVERPROF_TEST_SERVERS=$${CARGO_TARGET_DIR:-$$PWD/target}/servers .ci/cargo-test.sh -p everprof --all-features --test servers
	@# What they gave back, drawn in a browser.
	[ ! -d "$${CARGO_TARGET_DIR:-$$PWD/target}/servers/pages" ] || core/tests/browser/run.sh servers

test-storm: ## only the storms: signals under dlopen, fork, panics, malloc, thread churn (short form)
	@.ci/cargo-test.sh -p everprof --release --test storm

.PHONY: test-preload
test-preload: ## only the preloaded library, in sqlite3, redis, Python and a shell's tools
	cargo test -p everprof --test preload

.PHONY: test-python
test-python: ## the Python package: one wheel, tested under every Python from 3.9 on that is here (PYTHONS="3.11 3.13" for some)
	@bindings-python/tests/run.sh

.PHONY: test-python-package package-python
test-python-package: ## the Python package as strangers get it: pip install from the checkout, of the sdist, and what the wheel needs
	@bindings-python/tests/packaging.sh

package-python: ## the wheel and the sdist as they are delivered, looked at: target/python-package/dist/ (fetches zig)
	@RELEASE=1 bindings-python/tests/packaging.sh

.PHONY: test-python-real
test-python-real: ## the Python package in programs as others write them: gunicorn, SQLAlchemy, pandas, celery, CPython's own tests
	@bindings-python/tests/real/run.sh

.PHONY: preload
preload: ## the library for LD_PRELOAD: target/release/libeverprof_preload.so
	cargo build --release -p everprof-preload

lint: ## formatting, clippy, dependencies
	@.ci/lint.sh

docs: ## the crates' documentation, every item documented and every link right
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude everprof-python --no-deps

package: ## what would be published, built from the packages alone
	@# In a folder of a new name each time: cargo keeps what it unpacked by folder and version, also when the code is another.
	mkdir -p target; dir=$$(mktemp -d "$$PWD/target/package.XXXXXX"); trap 'rm -rf "$$dir"' EXIT; \
	cargo package --workspace --exclude everprof-python --target-dir "$$dir" $(if $(CI),,--allow-dirty)

fuzz: ## each fuzz target for FUZZ_SECONDS (60)
	@.ci/fuzz.sh

soak: ## the long forms: ten million signals, hours of load
	EVERPROF_SOAK=1 cargo test -p everprof --release --test storm -- --nocapture
	EVERPROF_SOAK=1 cargo test -p everprof --release --test allocator -- --nocapture

.PHONY: soak-service
soak-service: ## a server from the registry on mimalloc under load for SOAK_SECONDS (600), with every kind of profile; wants wrk
	@examples/rust/soak.sh

.PHONY: soak-python
soak-python: ## the storm's long form: ten million samples under every Python that test-python has prepared
	@bindings-python/tests/soak.sh

.PHONY: truth-python
truth-python: ## shares of CPU time on a crowded machine, TRUTH_SECONDS (60) of it under every Python that test-python has prepared
	@SCRIPT="frames/shares.py $${TRUTH_SECONDS:-60}" bindings-python/tests/long.sh

.PHONY: bench-python
bench-python: ## everprof for Python beside its peers: tables here, JSON lines in target/bench/python.jsonl (BENCH_ROUNDS=3, TOPICS="workload allocations upload")
	@benches/python/run.sh

.PHONY: bench-rust
bench-rust: ## everprof beside its peers: tables here, JSON lines in target/bench/ (TOPICS="handler memory" for some)
	@benches/run.sh $(TOPICS)

bless: ## writes generated files anew (options table, golden files)
	BLESS=1 cargo test -p everprof --test generated --test layers
	BLESS=1 cargo test -p everprof --test formats golden

ci: ## what CI runs
	@.ci/run
