# Everything a fresh machine with Python 3.11+ and make needs: `make demo`, `make test`.
# Set-up goes into .venv of this checkout; constraints.txt pins the versions this was tested with.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
OUT    ?= out
# Test files at a time. None of them asserts a time; one core each is enough, and 3 GB of memory.
AT_ONCE ?= 2

export ORT_DISABLE_TELEMETRY = 1

.PHONY: help demo test check format lint fast-test test-engine test-emulation test-registry bench head-to-head budgets
.PHONY: instruction-sets bench-engines bench-gpu bench-gate bench-images bench-runtimes bench-server overload
.PHONY: hostile generate dist clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade 'pip>=25.1'

# What the demo needs: the core, PyTorch to train and export with, scikit-learn for the digits.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[torch,serve]' scikit-learn
	@touch $@

# What the tests need: every framework that mlopt reads, every runtime, the tools of `make check`, and on x86-64
# TensorRT for RTX (95 MB; proprietary, under NVIDIA's licence).
$(VENV)/.all: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[torch,tensorflow,openvino,litert,tensorrt,docker,serve,grpc,signing,keyless,zstd,loadgen]' --group dev
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## set up, train a small model, compile it, serve its image, ask it
	$(BIN)/python demo/run.py $(OUT)/demo

test: $(VENV)/.all  ## set up and run every test; what is skipped is printed with its reason
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile

check: lint fast-test  ## before each commit: ruff, mypy --strict, import-linter, fast tests

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-test: $(VENV)/.all
	$(BIN)/python -m pytest -q -n $(AT_ONCE) --dist loadfile -m "not slow and not engine and not emulation"

format: $(VENV)/.all  ## rewrite the sources in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-engine: $(VENV)/.all  ## run the images in podman and docker (Debian: podman runc docker.io skopeo)
	$(BIN)/python -m pytest -m engine

test-emulation: $(VENV)/.all  ## arm64 and AVX2 under qemu-user 10 or newer
	$(BIN)/python -m pytest -m emulation

test-registry: $(VENV)/.all  ## push to a real registry on 127.0.0.1 (Debian: docker-registry skopeo)
	$(BIN)/python -m pytest -m registry

bench: $(VENV)/.all  ## time and memory of compile, written to reports/published/
	$(BIN)/python benchmarks/compile.py

# ROUNDS is what benchmarks/gate_rounds.py recorded on the machine that is asked about, quiet or busy.
bench-gate: $(VENV)/.all  ## false alarms and power of mlopt gate on recorded rounds: ROUNDS='a.json.gz b.json.gz'
	$(BIN)/python benchmarks/gate.py $(ROUNDS)

bench-images: $(VENV)/.all  ## sizes and times of images; a hundred rebuilds, each with the same digest or not
	$(BIN)/python benchmarks/images.py

bench-server: $(VENV)/.all  ## the server beside MLServer, KServe, BentoML and Flask, each in an environment of its own
	$(BIN)/python benchmarks/server.py --out $(OUT)

overload: $(VENV)/.all  ## ten minutes at twice the rate that each server can answer; half an hour
	$(BIN)/python benchmarks/overload.py --out $(OUT)

hostile: $(VENV)/.all  ## 100,000 hostile requests to each server, and as many calls over gRPC; the tests send 2000
	MLOPT_HOSTILE=100000 $(BIN)/python -m pytest -q tests/serve/test_hostile.py tests/serve/test_hostile_grpc.py
	MLOPT_HOSTILE=200000 $(BIN)/python -m pytest -q tests/serve/test_native_process.py -k hostile

head-to-head: $(VENV)/.all  ## mlopt beside its peers, each in an environment of its own; hours the first time
	$(BIN)/python benchmarks/head_to_head.py --out $(OUT)

budgets: $(VENV)/.all  ## 200 random budgets on trained models, kept or not on samples that were held out
	$(BIN)/python benchmarks/budgets.py

instruction-sets: $(VENV)/.all  ## int8 models on AVX2, VNNI and Arm; Arm needs qemu-user 10 or newer
	$(BIN)/python benchmarks/instruction_sets.py --out $(OUT)

bench-engines: $(VENV)/.all  ## engines for NVIDIA cards built here: model, precision, GPU, size, time, digests
	$(BIN)/python benchmarks/engines.py

bench-runtimes: $(VENV)/.all  ## small nets in ONNX Runtime, OpenVINO and LiteRT: answers, clocks, memory
	$(BIN)/python benchmarks/runtimes.py

# Needs PyTorch for CUDA, which .venv does not have: any python that does, as PYTHON=….
bench-gpu:  ## what an NVIDIA GPU makes of precisions, widths, sparsity and runtimes; skipped where there is none
	$(PYTHON) benchmarks/gpu.py

generate: $(VENV)/.all  ## rewrite what is generated: docs/cli.md, docs/exit-codes.md, the JSON Schemas
	$(BIN)/python docs/generate.py
	$(BIN)/python -m mlopt.json_schema
	$(BIN)/python -m mlopt.report.json_schema
	$(BIN)/python -m mlopt.gate.json_schema
	$(BIN)/python -m mlopt.measure.json_schema

dist: $(VENV)/.all  ## wheel and sdist
	$(BIN)/python -m build

clean:  ## remove what was made here, not the store
	rm -rf $(VENV) $(OUT) dist build
