# Every command of a developer, one line each: `make help`.
# CI calls the same ones (.ci/run).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo eval test check bench dst clean FORCE

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
EXTRAS := daemons,evaluation

# Passed on to the tool behind the command, as in `make test ARGS="-k lease"`.
ARGS ?=
SEEDS ?= 1-50
WORKERS ?= 2

# cargo as rustup installs it, also where PATH does not know it.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Folders are listed as well as files: a deleted file changes only its folder.
RUST_SOURCES := $(shell find rust_core Cargo.toml Cargo.lock .cargo \
	-name target -prune -o \( -name '*.rs' -o -name '*.toml' -o -name '*.lock' -o -type d \) -print 2>/dev/null)
CODE := $(wildcard propius daemons evaluation tests benches examples scripts/*.py)
# pyo3 asks this interpreter, not whatever python3 happens to be.
CARGO := PYO3_PYTHON=$(CURDIR)/$(PYTHON) cargo
CARGO_FLAGS := --locked --manifest-path rust_core/Cargo.toml

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.core ## set up .venv and build the Rust core; repeats only what has changed
	@:

demo: setup ## run three FL jobs on 300 simulated devices (ARGS="--policy fifo --seed 7")
	$(BIN)/propius demo $(ARGS)

eval: setup $(VENV)/.training ## compare policies on 4 jobs that train on 200 simulated devices, in a few minutes
	rm -rf out/eval out/eval-times
	$(BIN)/propius eval run evaluation/profiles/small/comparison.yml --virtual --out out/eval $(ARGS)
	$(BIN)/propius eval report out/eval
	@echo "propius: the times again, with 20 seeds and nothing trained"
	$(BIN)/propius eval run evaluation/profiles/small/comparison_times.yml --virtual --out out/eval-times >/dev/null
	$(BIN)/propius eval report out/eval-times --show times

test: setup $(VENV)/.training ## run the tests (ARGS="-k lease", WORKERS=0 for one process)
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: setup $(VENV)/.training ## lint, format, types, clippy, rustfmt, Rust tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(CARGO) fmt --manifest-path rust_core/Cargo.toml --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --all-targets --all-features -- -D warnings
	$(CARGO) test $(CARGO_FLAGS)

bench: setup $(VENV)/.training ## run the benchmarks (figures and machine: benches/README.md)
	$(PYTHON) -m pytest benches --benchmark-only $(ARGS)
	$(CARGO) bench $(CARGO_FLAGS)

dst: setup ## try faults by the thousand in virtual time (SEEDS=A-B ARGS="--resume runs.jsonl")
	$(PYTHON) scripts/dst.py --seeds $(SEEDS) $(ARGS)

clean: ## remove all that the commands have made
	rm -rf $(VENV) target rust_core/target out dist .hypothesis .benchmarks
	rm -rf .mypy_cache .pytest_cache .ruff_cache propius/_core*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what `setup` is made of; each stamp is newer than what it was made from -----------------

$(PYTHON):
	@python=$$(scripts/toolchain.sh python) && \
		echo "propius: making $(VENV) with $$python" && "$$python" -m venv $(VENV)

$(VENV)/.dependencies: pyproject.toml | $(PYTHON)
	@scripts/toolchain.sh rust >/dev/null
	$(PYTHON) -m pip install --quiet 'pip>=25.1'
	$(PYTHON) -m pip install --quiet --group dev
	@touch $@

$(VENV)/.core: $(VENV)/.dependencies $(RUST_SOURCES) $(if $(wildcard propius/_core*.so),,FORCE)
	@scripts/toolchain.sh rust >/dev/null
	@echo "propius: building the Rust core (release) and installing this checkout into $(VENV)"
	$(PYTHON) -m pip install --quiet --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

# What trains is gigabytes of torch, which the daemons, the simulator and the demo do without.
$(VENV)/.training: pyproject.toml | $(VENV)/.core
	@echo "propius: installing the extra \"training\" (torch) into $(VENV)"
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["training"], sep="\n")' \
		> $(VENV)/training.txt
	$(PYTHON) -m pip install --quiet --requirement $(VENV)/training.txt
	@touch $@
