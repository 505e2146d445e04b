# One command each; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-chart test-cluster test-mariadb scale-in chaos cluster cluster-down keda docs check fmt mutants lock clean
BIN := .venv/bin
WORKERS ?= auto
# Kills of a scheduler at a step of a task's way, and kills of one in a whole stack.
SEEDS ?= 20
SCHEDULERS ?= 5
# Scale-ins at random, each with a drain.
SCALE_INS ?= 50

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

install: ## the virtual environment, from the hashed lock
	@scripts/bootstrap

# KUBECONFIG counts only where it was given to make: that of somebody's shell may be of a cluster in earnest.
demo: install ## everything up, the example DAGs run, until Ctrl-C (ONCE=1: until they have run; KUBECONFIG=file: there)
	@exec $(BIN)/hybrid-executor standalone $(if $(ONCE),--once) \
	  $(if $(filter command,$(firstword $(origin KUBECONFIG))),--kubeconfig '$(KUBECONFIG)')

test: install ## the test suite
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --ignore tests/chaos --ignore tests/chart --ignore tests/cluster --ignore tests/image --ignore tests/scale_in --ignore tests/soak $(ARGS)

test-cluster: install ## the tests on a real Kubernetes and KEDA, built from Go modules at the first run (KUBECONFIG=file: the contract there; KILLS=all)
ifeq ($(KUBECONFIG),)
	@$(BIN)/python -m tests.cluster build
	@$(BIN)/python -m tests.cluster.kubelet
	@CHAOS_KILLS=$(KILLS) CHAOS_SEEDS=$(SCHEDULERS) CHAOS_SEED=$(SEED) \
	  $(BIN)/python -m pytest -v -n 2 --dist loadgroup tests/cluster $(ARGS)
else
	@$(BIN)/python -m pytest -v -n 2 --dist loadgroup \
	  tests/cluster/test_contract_embedded.py tests/cluster/test_contract_given.py $(ARGS)
endif

cluster: install ## a real Kubernetes on loopback, in the background; says where its kubeconfig is
	@$(BIN)/python -m tests.cluster up

keda: install ## KEDA on the cluster that is up
	@$(BIN)/python -m tests.cluster keda

cluster-down: ## end it, and leave nothing
	@test ! -d .cluster || $(BIN)/python -m tests.cluster down

test-chart: install ## the chart, rendered by a real helm
	@$(BIN)/python -m tests.fixtures.helm
	@$(BIN)/python -m pytest -q -n $(WORKERS) tests/chart $(ARGS)

test-image: install ## the image and the compose file without an engine: their commands, as processes
	@$(BIN)/python -m pytest -v -n 2 --dist loadgroup tests/image $(ARGS)

test-mariadb: install ## the ledger's tests on a real MariaDB, which root gets installed if it is missing
	@$(BIN)/python -m tests.fixtures.mariadb
	@$(BIN)/python -m pytest -q -m mariadb tests/contract/test_ledger.py tests/integration $(ARGS)

scale-in: install ## workers run dry and are ended, real ones: SCALE_INS of them at random (SEED=n: from this one)
	@$(BIN)/python -m tests.cluster build
	@SCALE_INS=$(SCALE_INS) SCALE_IN_SEED=$(SEED) $(BIN)/python -m pytest -v -s --durations=0 --durations-min=1 \
	  tests/scale_in tests/cluster/test_scale_in.py $(ARGS)

chaos: install ## a scheduler killed at SEEDS steps, and SCHEDULERS times in a whole stack; outages (SEED=n: from this one)
	@CHAOS_STEPS=$(SEEDS) CHAOS_SEEDS=$(SCHEDULERS) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -v --durations=0 --durations-min=1 tests/chaos $(ARGS)

docs: install ## the documentation as a site, in docs/_build; a warning is an error
	@$(BIN)/sphinx-build -q --fail-on-warning --keep-going docs docs/_build

soak: install ## TASKS tasks (5,000) under two schedulers while everything dies at random (SEED=n: that plan again)
	@SOAK_TASKS=$(TASKS) SOAK_SEED=$(SEED) $(BIN)/python -m pytest -v -s tests/soak $(ARGS)

check: install ## style, types, layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

fmt: install ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

mutants: install ## each deliberate fault makes its named test fail
	@$(BIN)/python -m tests.mutants $(ARGS)

lock: install ## pin what pyproject.toml allows, with hashes and without hosts
	@uv=$$(command -v uv || echo .cache/boot/bin/uv) && $$uv lock --quiet && \
	  $$uv export --quiet --all-extras --no-emit-project --no-annotate --no-header --output-file requirements.lock

clean: cluster-down ## remove what was made here
	@rm -rf .venv .demo .cluster .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
