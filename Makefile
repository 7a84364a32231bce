# Everything a fresh machine needs is Python 3.11, 3.12 or 3.13; `make train` and `make test` do the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRAIN_ARGS ?=
BENCH_ARGS ?=
STUDY_ARGS ?=
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder
GPU_PYTHON ?= $(BIN)/python
NANOGPT ?=
OURS := ours-dense ours-stage1 ours-stage2
GPU_COMPARE = -$(GPU_PYTHON) benchmarks/compare.py --shape gpu-
GPU_RUN := model=gpt2 train.max_steps=300 train.seq_len=1024 train.tokens_per_step=32768 train.precision=bf16 tracking.wandb=off
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install train test test-fast test-faults soak lint bench study study-gpu gpu clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv and install everything into it (a minute or two, 1.9 GB without CUDA)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, this is %d.%d" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

train: install ## pre-train a tiny GPT-2 with EST on Python's own source text (CPU, about a minute)
	$(BIN)/est-train $(TRAIN_ARGS)

test: install ## ruff, mypy and all tests (two CPU cores, about 17 minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) $(TWO_AT_A_TIME) tests $(PYTEST_ARGS)

test-fast: install ## ruff and the tests that start no training (two CPU cores, under two minutes)
	$(BIN)/ruff check .
	$(PYTEST) $(TWO_AT_A_TIME) -m "not processes and not slow" tests $(PYTEST_ARGS)

test-faults: install ## the whole fault suite of docs/faults.md (two CPU cores, a quarter of an hour)
	EST_FAULTS=full EST_FAULT_REPORT=outputs/faults.md $(PYTEST) $(TWO_AT_A_TIME) tests/faults $(PYTEST_ARGS)

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

gpu: ## the open items of docs/gpu-runs.md, on a machine with a GPU (NANOGPT=PATH/train.py for that comparison)
	mkdir -p outputs/gpu
	$(GPU_PYTHON) -m pytest tests/gpu tests/storage/test_snapshot.py
	$(GPU_PYTHON) benchmarks/loss_time.py --positions 16384 --json outputs/gpu/loss.json
	$(GPU_COMPARE)gpt2 --only ours-dense hf hf-compiled trainer --json outputs/gpu/gpt2-dense.json
	$(if $(NANOGPT),$(GPU_COMPARE)gpt2 --only ours-dense nanogpt --nanogpt $(NANOGPT) --json outputs/gpu/gpt2-nanogpt.json)
	$(GPU_COMPARE)gpt2 --micro-batch 32 --tokens 131072 --only $(OURS) ours-stage3 --json outputs/gpu/gpt2-stages.json
	$(GPU_COMPARE)llama --tokens 65536 --sequential --only $(OURS) --json outputs/gpu/llama-stages.json
	$(GPU_COMPARE)llama --sequential --only ours-dense hf hf-compiled litgpt --json outputs/gpu/llama-dense.json
	$(GPU_PYTHON) benchmarks/whole_run.py --gpu --steps 150 --json outputs/gpu/whole-run.json
	$(GPU_PYTHON) benchmarks/save_time.py --width 2048 --layers 22 --vocab 32000 --tokens 8192 --json outputs/gpu/save.json
	$(GPU_PYTHON) -m est_cli.train $(GPU_RUN) run_name=gpu-three_stage
	$(GPU_PYTHON) -m est_cli.train $(GPU_RUN) run_name=gpu-dense scheduler=dense
	$(GPU_PYTHON) benchmarks/optim_time.py
	$(GPU_PYTHON) -m est_cli.plan $(GPU_RUN) probe=true
	$(GPU_PYTHON) -m est_cli.analyze checkpoint=outputs/gpu-three_stage analysis=hessian_trace analyze.probes=10
	$(GPU_PYTHON) -m est_cli.analyze checkpoint=outputs/gpu-dense analysis=hessian_trace analyze.probes=10

clean: ## remove caches and the virtual environment, never outputs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
