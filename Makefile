# Everything a fresh machine needs is Python 3.11, 3.12 or 3.13; `make train` and `make test` do the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRAIN_ARGS ?= sampling.redraw=forward 'train.micro_batch=[2,2,16]'
BENCH_ARGS ?=
STUDY_ARGS ?=
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder
GPU_PYTHON ?= $(BIN)/python
GPU_ARGS ?=
CPU_TORCH ?= --torch-backend cpu
UV_LOCK := uv pip compile pyproject.toml --extra test -c constraints.txt --no-emit-package est-cli --generate-hashes \
	--python-platform x86_64-manylinux_2_28 --no-header --no-annotate --no-emit-find-links -q
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install train docs test test-fast test-docs test-faults test-long test-compile test-browser test-fake-gpu test-lowest soak lint bench study study-gpu gpu locks clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv and install everything into it (a minute or two, 1.9 GB without CUDA)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, this is %d.%d" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

# A step's gradient is the mean over eight draws: docs/results/quickstart.md. TRAIN_ARGS=... trains with these instead.
train: install ## pre-train a tiny GPT-2 with EST on Python's own source text (CPU, about two minutes)
	$(BIN)/est-train $(TRAIN_ARGS)

test: install ## ruff, mypy and all tests (two CPU cores, about 15 minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) $(TWO_AT_A_TIME) tests $(PYTEST_ARGS)

test-fast: install ## ruff and the tests that start no training (two CPU cores, under two minutes)
	$(BIN)/ruff check .
	$(PYTEST) $(TWO_AT_A_TIME) -m "not processes and not slow" tests $(PYTEST_ARGS)

test-faults: install ## the whole fault suite of docs/faults.md (two CPU cores, 20 minutes)
	EST_FAULTS=full EST_FAULT_REPORT=outputs/faults.md $(PYTEST) $(TWO_AT_A_TIME) tests/faults $(PYTEST_ARGS)

test-long: install ## the cases of several processes, kills and comparisons that make test leaves out (not timed as a whole)
	EST_LONG=1 $(PYTEST) $(TWO_AT_A_TIME) -m long tests $(PYTEST_ARGS)

docs: $(VENV)-docs/.installed ## build the docs as a site into site/: links are checked, nothing is loaded from elsewhere
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict
	$(VENV)-docs/bin/python docs/site_check.py site

test-docs: install $(VENV)-docs/.installed ## run the tutorials and their notebook, in small (two CPU cores, 10 minutes)
	EST_TUTORIALS=1 $(PYTEST) -n 2 tests/test_tutorials.py $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled $(VENV)-docs/bin/python docs/run_notebook.py $(BIN)/python

# The extra `docs` alone: reading the code for its docstrings needs none of what the code needs.
$(VENV)-docs/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)-docs/requirements.txt
	$(VENV)-docs/bin/python -m pip install -q -r $(VENV)-docs/requirements.txt
	touch $@

test-compile: install ## compiled layers in one process, ddp, fsdp, with checkpointing, GPT-2 and Llama: graphs, losses (10 minutes)
	EST_COMPILE=full $(PYTEST) tests/training/test_compile.py $(PYTEST_ARGS)

test-browser: install ## the page of est-report in Chromium, which has to be on the PATH; installs playwright (a minute)
	$(BIN)/python -m pip install -q 'playwright>=1.40'
	EST_BROWSER=1 $(PYTEST) tests/reporting/test_browser.py $(PYTEST_ARGS)

test-fake-gpu: $(VENV)-cuda/.installed ## a step on fake CUDA tensors, the code of its kernels; makes an environment of 7 GB (no GPU)
	OMP_NUM_THREADS=1 $(VENV)-cuda/bin/python -m pytest -q tests/fake_gpu $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(VENV)-cuda/bin/python -m pytest -q tests/models/test_triton_softmax.py $(PYTEST_ARGS)

test-lowest: $(VENV)-lowest/.installed ## the fast tests with the lowest versions of constraints-lowest.txt; an environment of 7 GB
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest $(TWO_AT_A_TIME) -m "not processes and not slow" tests $(PYTEST_ARGS)

# torch's build for CUDA, which a plain `torch` is: the newest version that pyproject.toml lets in.
$(VENV)-cuda/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-cuda
	$(VENV)-cuda/bin/python -m pip install -q -e '.[test]'
	touch $@

$(VENV)-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install -q -c constraints-lowest.txt -e '.[test]'
	touch $@

soak: install ## 20,000 tiny steps and 400 saves: memory, files and threads must not grow (10 minutes)
	EST_FAULTS=soak $(PYTEST) tests/faults/test_soak.py $(PYTEST_ARGS)

lint: install ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## tokens/s of dense and each stage against Hugging Face and the ideal (CPU, 5 minutes)
	mkdir -p outputs/bench
	$(BIN)/python benchmarks/compare.py --json outputs/bench/compare.json --png outputs/bench/compare.png $(BENCH_ARGS)
	@echo "The finer gate of the stages, inside one process: $(BIN)/python benchmarks/stage_time.py"

study: install ## the studies of docs/results that are missing (EST_DATA=DIR; hours; STUDY_ARGS="a --part 1/2")
	$(BIN)/python studies/study.py $(STUDY_ARGS)

study-gpu: ## the next runs of study j (GPT-2 base), under 9 minutes; again until nothing is left (EST_DATA=DIR)
	$(GPU_PYTHON) studies/study.py j --minutes 5
	$(GPU_PYTHON) studies/study_page.py j

gpu: ## what a GPU must show, in under ten minutes; again until nothing is left (docs/gpu-runs.md)
	$(GPU_PYTHON) benchmarks/gpu_session.py $(GPU_ARGS)

# The CPU's torch is of another index. Where that is not reachable but its file is at hand: CPU_TORCH="--find-links DIR".
locks: ## versions and hashes for the containers of docker/ (needs uv)
	$(UV_LOCK) --python-version 3.11 $(CPU_TORCH) -o docker/requirements-cpu.txt
	$(UV_LOCK) --python-version 3.12 -o docker/requirements-cuda.txt

clean: ## remove caches and the virtual environment, never outputs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
