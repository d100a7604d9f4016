# The menu. What continuous integration does (.ci/run) is made of these.
MAKEFLAGS += --no-print-directory
export PYTHON ZONE LISTEN

help: ## this menu
	@awk -F ': ## ' 'NF == 2 && /^[a-z]/ { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo '  ZONE=FR LISTEN=127.0.0.1:14044 for run; ARGS="-k rapl" for the tests; PYTHON=python3.12 for all'

run: ## meter this machine, price with ZONE's grid, show it on port 14044
	@exec scripts/run.sh run --config deploy/quickstart.toml

demo: ## the same over synthetic hardware, labelled so
	@exec scripts/run.sh demo

test: ## build the wheel, install it in a clean environment, test that
	@scripts/test.sh -n auto $(ARGS)

check: ## lint, format, types
	@scripts/check.sh

accept: ## the acceptance lines at full length, and a table of them: about an hour
	@WATTGRAM_ACCEPT=full scripts/test.sh -n auto -m accept --timeout=7200 $(ARGS)

bench: ## what the daemon itself costs, and how wrong it is, beside another exporter
	@exec scripts/bench.sh $(ARGS)

golden: ## rewrite the golden files; the diff is for the reviewer
	@scripts/test.sh --update -k golden $(ARGS)

build: ## wheel and source distribution, in dist/
	@scripts/build.sh

clean: ## remove everything that these commands made
	rm -rf .venv .venv-* dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find agent exporters tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help run demo test check accept bench golden build clean
