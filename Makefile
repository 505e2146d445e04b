# One command each; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-beta test-chart test-cluster test-browser test-mariadb test-redis scale-in chaos bench load cluster cluster-down keda docs check fmt mutants lock lock-beta clean
BIN := .venv/bin
WORKERS ?= auto
# Kills of a scheduler at a step of a task's way, and kills of one in a whole stack.
SEEDS ?= 20
SCHEDULERS ?= 5
# Scale-ins at random, each with a drain.
SCALE_INS ?= 50
# What runs on the beta of the next Airflow: its side of the contract, the ledger, the executor under its scheduler,
# and whole stacks.
BETA := tests/contract/test_executor_surface.py tests/contract/test_tasks.py tests/contract/test_ledger.py \
  tests/contract/test_celery_message.py tests/contract/test_pod_matches_stock.py \
  tests/integration/test_executor.py tests/integration/test_ledger_migrations.py tests/integration/test_moving_in.py \
  tests/integration/test_provider.py tests/integration/test_scheduler_transaction.py \
  tests/integration/test_scaling_query.py $(addprefix tests/integration/test_cli_,hybrid.py ledger.py) \
  $(addprefix tests/e2e/test_,access.py airflow_2_config.py commands.py examples.py running.py without_package.py)

# What speaks to the broker's server by other ways than Celery's: scripts, streams, channels, queues looked into.
REDIS := tests/integration/test_ledger_live.py tests/integration/test_ledger_live_servers.py \
  tests/integration/test_celery_push.py tests/integration/test_celery_push_servers.py \
  tests/integration/test_worker_claim.py

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

install: ## the virtual environment, from the hashed lock
	@scripts/bootstrap

# KUBECONFIG counts only where it was given to make: that of somebody's shell may be of a cluster in earnest.
demo: install ## everything up, the example DAGs run, until Ctrl-C (ONCE=1: until they have run; KUBECONFIG=file: there)
	@exec $(BIN)/hybrid-executor standalone $(if $(ONCE),--once) \
	  $(if $(filter command,$(firstword $(origin KUBECONFIG))),--kubeconfig '$(KUBECONFIG)')

test: install ## the test suite
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --ignore tests/browser --ignore tests/chaos --ignore tests/chart --ignore tests/cluster --ignore tests/image --ignore tests/scale_in --ignore tests/soak $(ARGS)

test-cluster: install ## the tests on a real Kubernetes and KEDA, built from Go modules at the first run (KUBECONFIG=file: the contract there; KILLS=all; GIT_SYNC=program)
ifeq ($(KUBECONFIG),)
	@$(BIN)/python -m tests.cluster build
	@$(BIN)/python -m tests.cluster.kubelet
	@CHAOS_KILLS=$(KILLS) CHAOS_SEEDS=$(SCHEDULERS) CHAOS_SEED=$(SEED) GIT_SYNC=$(GIT_SYNC) \
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

test-chart: install ## the chart, rendered by a real helm, its alerts by a real promtool
	@$(BIN)/python -m tests.fixtures.helm
	@$(BIN)/python -m tests.fixtures.promtool >/dev/null
	@$(BIN)/python -m pytest -q -n $(WORKERS) tests/chart $(ARGS)

test-beta: ## what touches Airflow, on the beta of the next one, in .venv-3.4
	@scripts/bootstrap 3.4
	@.venv-3.4/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup $(BETA) $(ARGS)

test-image: install ## the image and the compose file without an engine: their commands, as processes
	@$(BIN)/python -m pytest -v -n 2 --dist loadgroup tests/image $(ARGS)

test-browser: install ## people in a browser: Airflow's UI with the page, and Flower (BROWSER_IMAGES=folder: with pictures)
	@$(BIN)/python -m pytest -v -s --durations=0 --durations-min=1 tests/browser $(ARGS)

test-mariadb: install ## the ledger's tests on a real MariaDB, which root gets installed if it is missing
	@$(BIN)/python -m tests.fixtures.mariadb
	@$(BIN)/python -m pytest -q -m mariadb tests/contract/test_ledger.py tests/integration $(ARGS)

test-redis: install ## what is said to Redis, on Redis itself and not on Valkey; root gets it installed if it is missing
	@$(BIN)/python -m tests.fixtures.redis_server
	@$(BIN)/python -m pytest -q -n 2 --redis $(REDIS) $(ARGS)

scale-in: install ## workers run dry and are ended, real ones: SCALE_INS of them at random (SEED=n: from this one)
	@$(BIN)/python -m tests.cluster build
	@SCALE_INS=$(SCALE_INS) SCALE_IN_SEED=$(SEED) $(BIN)/python -m pytest -v -s --durations=0 --durations-min=1 \
	  tests/scale_in tests/cluster/test_scale_in.py $(ARGS)

chaos: install ## a scheduler killed at SEEDS steps, and SCHEDULERS times in a whole stack; outages (SEED=n: from this one)
	@CHAOS_STEPS=$(SEEDS) CHAOS_SEEDS=$(SCHEDULERS) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -v --durations=0 --durations-min=1 tests/chaos $(ARGS)

bench: install ## beside the stock executors, in one run: a table in bench/results (FIGURES=name,name SIZES=small ROUNDS=n)
	@$(BIN)/python -m bench $(if $(FIGURES),--figures $(FIGURES)) $(if $(SIZES),--size $(SIZES)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

load: install ## minutes of load, two schedulers, pods without processes (SIZE=small|medium|full PODS=n TASKS=n an hour MINUTES=n)
	@$(BIN)/python -m bench.load $(if $(SIZE),--size $(SIZE)) $(if $(PODS),--pods $(PODS)) \
	  $(if $(TASKS),--tasks-an-hour $(TASKS)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

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

# The pins of the lock, but for Airflow's own.
lock-beta: install ## the same for the beta of the next Airflow, out of requirements-3.4.in
	@uv=$$(command -v uv || echo .cache/boot/bin/uv) && mkdir -p .cache && \
	  sed -n 's/^\([a-z].*[^ ]\) *\\$$/\1/p' requirements.lock | \
	    grep -v -E '^apache-airflow(-core|-task-sdk)?==' >.cache/pins.txt && \
	  $$uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --all-extras \
	    --override requirements-3.4.in --constraint .cache/pins.txt --output-file requirements-3.4.lock pyproject.toml

clean: cluster-down ## remove what was made here
	@rm -rf .venv .venv-3.4 .demo .cluster .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
