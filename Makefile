# Every chore of the project; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The interpreter the module embeds: Debian's own, whatever else is on PATH.
export PYO3_PYTHON := /usr/bin/python3
# `make setup` puts here the servers that PATH lacks.
export PATH := $(PATH):$(CURDIR)/servers/bin

MODULE := $(CURDIR)/target/release/libgeartrain.so
VENV := .venv/.complete
PYTHON := $(CURDIR)/.venv/bin/python
PORT ?= 6379
# The first of the three ports of a cluster.
CLUSTER_PORT ?= 30001
# One server's program, or a few; by default one of each kind.
SERVER ?= redis-server valkey-server
# The name of the image that `make docker` builds.
IMAGE ?= geartrain
# More arguments for pytest, the benchmarks or the build of the image, such as ARGS="-k readme -x".
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## install what is missing from the distribution (Debian 12 or 13; as root, else with sudo)
	@tests/tools/setup.sh

.PHONY: build
build: ## build the module: target/release/libgeartrain.so
	cargo build --release

.PHONY: lint
lint: $(VENV) ## check formatting, clippy's and ruff's rules
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings
	$(PYTHON) -m ruff check tests python
	$(PYTHON) -m ruff format --check tests python

# nextest gives each test a process of its own; without it the tests run one after another.
CARGO_TEST = $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run" || echo "cargo test --lib")
.PHONY: test-unit
test-unit: ## run the Rust tests: the pure layers alone, then everything
	$(CARGO_TEST) --no-default-features
	$(CARGO_TEST)

.PHONY: test
test: setup build $(VENV) ## run the tests on Redis and Valkey at once, or on SERVER=path/to/server
	@tests/tools/test.sh $(PYTHON) "$(SERVER)" $(ARGS)

.PHONY: bench
bench: setup build $(VENV) ## measure against what one would do without the module (a few minutes)
	GEARTRAIN_SERVER=$(firstword $(SERVER)) $(PYTHON) tests/bench/bench.py $(ARGS)

.PHONY: realdata
realdata: setup build $(VENV) ## run functions over a million keys of mixed types with clients at work
	GEARTRAIN_SERVER=$(firstword $(SERVER)) $(PYTHON) tests/bench/realdata.py $(ARGS)

.PHONY: soak
soak: setup build $(VENV) ## ten minutes of mixed load over registrations of all kinds
	GEARTRAIN_SERVER=$(firstword $(SERVER)) $(PYTHON) tests/bench/soak.py $(ARGS)

.PHONY: faults
faults: setup build $(VENV) ## kill, cut, slow, fail over, reshard and restart shards under load (an hour; FAULT_ROUNDS=20)
	FAULT_ROUNDS=$${FAULT_ROUNDS:-20} GEARTRAIN_SERVER=$$(realpath -s "$$(command -v $(firstword $(SERVER)))") $(PYTHON) -m pytest tests/faults $(ARGS)

.PHONY: writebehind
writebehind: setup build $(VENV) ## run rgsync with MariaDB and PostgreSQL (installs both; a few minutes)
	tests/writebehind/setup.sh
	@for server in $(SERVER); do \
		path=$$(command -v "$$server") || { echo "no such server: $$server"; exit 1; }; \
		echo "== write-behind on $$("$$path" --version)"; \
		GEARTRAIN_SERVER=$$(realpath -s "$$path") $(PYTHON) -m pytest tests/writebehind $(ARGS) || exit 1; \
	done

.PHONY: run
run: setup build ## run a server with the module in the foreground: PORT=6379
	$(firstword $(SERVER)) --port $(PORT) --bind 127.0.0.1 --save '' --dir $(CURDIR)/target --loadmodule $(MODULE)

.PHONY: demo
demo: setup build ## start a server with the module and sample data, run functions, show how to go on
	@tests/tools/demo.sh start $(firstword $(SERVER)) $(MODULE) $(PORT)

.PHONY: demo-stop
demo-stop: ## stop the server of `make demo`
	@tests/tools/demo.sh stop

.PHONY: cluster
cluster: setup build ## start a cluster of three shards with the module on ports 30001 to 30003, say how to go on
	@tests/tools/cluster.sh start $(firstword $(SERVER)) $(MODULE) $(CLUSTER_PORT)

.PHONY: cluster-stop
cluster-stop: ## stop the shards of `make cluster`
	@tests/tools/cluster.sh stop

.PHONY: docker
docker: ## build the image with docker, or without a daemon by buildah
	@if docker info >/dev/null 2>&1; then \
		docker build --file docker/Dockerfile --tag $(IMAGE) --build-arg SERVER=$(firstword $(SERVER)) $(ARGS) .; \
	else \
		IMAGE=$(IMAGE) SERVER=$(firstword $(SERVER)) docker/build-without-daemon.sh $(ARGS); \
	fi

.PHONY: servers
servers: setup ## fetch newer Redis and Valkey servers from newer Debian releases into servers/
	@tests/tools/servers.sh

.PHONY: clean
clean: ## remove what was built and fetched
	-@tests/tools/demo.sh stop >/dev/null 2>&1
	-@tests/tools/cluster.sh stop >/dev/null 2>&1
	cargo clean
	rm -rf .venv servers

$(VENV): tests/requirements.txt
	@[ -x $(PYTHON) ] || /usr/bin/python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --requirement tests/requirements.txt
	@touch $@
