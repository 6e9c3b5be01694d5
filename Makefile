# `make` lists the targets. Each makes the environment (.venv) first if it is not there.
.DEFAULT_GOAL := help
BIN := .venv/bin

.PHONY: help setup demo test chaos mutants resume long bench-cancel bench-events bench-api bench-evaluation parity check format constraints audit openapi fuzz clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: ## make .venv with everything, at the pinned versions
	@scripts/setup-env

demo: setup ## train a real adapter from nothing, through the whole service (about 3 minutes)
	@$(BIN)/python -m demo

test: ## every check and test, with real training on the CPU (about 16 minutes)
	@echo "make test: sets up .venv if need be (1-6 min), then format, lint, types, imports (1 min)"
	@echo "           and all tests, real trainings included (about 15 min on 2 cores, two tests at a time)."
	@scripts/setup-env
	@$(MAKE) --no-print-directory check audit
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

KILLS ?= 100
SEED ?= 1
DB ?= sqlite

chaos: setup ## kill everything at random and count what is lost: KILLS=100 SEED=1 DB=sqlite|postgres
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED) --db $(DB)

mutants: setup ## break each guard of the run protocol in a copy: do the tests notice? (about 20 minutes)
	@$(BIN)/python -m tests.mutants

resume: setup ## kill, pause and resume a real training: is the adapter the same, bit for bit? (about 4 minutes)
	$(BIN)/python -m pytest -s -m long tests/e2e/test_resume.py

long: setup ## the tests that `make test` leaves out, since they take minutes each (about 12 minutes)
	$(BIN)/python -m pytest -m long

bench-cancel: setup ## how long a cancelled training's processes live (about 5 minutes)
	@$(BIN)/python -m benchmarks.cancel

bench-events: setup ## how late an event reaches 1,000 watchers: DB=sqlite|postgres (about 1 minute)
	@$(BIN)/python -m benchmarks.events --db $(DB)

QUICK ?=

bench-api: setup ## the API beside MLflow, a bare route and nginx: DB=sqlite|postgres QUICK=1 (about 10 minutes)
	@$(BIN)/python -m benchmarks.api --db $(DB) $(if $(QUICK),--quick)

DATA ?=
ROUNDS ?= 3

bench-evaluation: setup ## rows/s beside FinLoRA's way, on the demo's model: DATA=folder of its test sets (about 2 minutes)
	@test -d .finlora/demo/downloads || $(BIN)/python -m demo
	@$(BIN)/python -m benchmarks.evaluation --rounds $(ROUNDS) $(if $(DATA),--data $(DATA))

FINLORA ?= ../finlora

parity: setup ## compare with what FinLoRA's own script renders: FINLORA=folder with its configs
	@$(BIN)/python -m benchmarks.parity $(FINLORA)

check: setup ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: setup ## write the installed versions to constraints.txt
	@{ grep '^#' constraints.txt; \
	   { grep -E '^((nvidia|cuda)-|(deepspeed|hatchling|hjson|msgpack|ninja|py-cpuinfo)=)' constraints.txt | grep -v '^nvidia-ml-py='; \
	     VIRTUAL_ENV=.venv $(BIN)/uv pip freeze --exclude-editable | sed 's/+cpu$$//'; } \
	   | LC_ALL=C sort -fu; } > constraints.new && mv constraints.new constraints.txt

audit: setup ## are there known vulnerabilities in what constraints.txt pins?
	@$(BIN)/python -m tests.audit

openapi: setup ## write docs/openapi.json anew: the diff is what changes for clients
	@$(BIN)/python -m tests.document

REQUESTS ?= 20000

fuzz: setup ## requests made up from the OpenAPI document: REQUESTS=20000 SEED=1 DB=sqlite|postgres
	@$(BIN)/python -m tests.fuzz --requests $(REQUESTS) --seed $(SEED) --db $(DB)

clean: ## remove .venv and the caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
