# Two commands set up all they need on a machine with Python 3.11, git and make:
#   make demo   compile the embedded checkpoint for both runtimes and let the stock engines speak
#   make test   lint, types and the whole test suite

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SPEECH := compiler/g3n_compiler/nano/heldout/speech/05.ogg
PICTURE := compiler/g3n_compiler/nano/heldout/seven.png

.PHONY: help setup demo demo-gpu test lint clean apk arm64-kit gpu-kit test-app test-gpu

help: ## what each command does
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/'

setup: $(READY) ## install the pinned dependencies into .venv

$(READY): pyproject.toml runtime_shims/pyproject.toml training/pyproject.toml
	@echo "Installing the compiler and its pinned toolchains into $(VENV) (several GB, minutes)"
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet -e runtime_shims -e '.[dev]' -e training
	@touch $@

demo: setup ## compile nano for LiteRT and ExecuTorch, and check the answers of both stock engines
	$(BIN)/g3n-compile --target host --size nano --runtime both
	@for runtime in litert executorch; do \
	  ask="$(BIN)/g3n-run exported/nano-host-int4 --runtime $$runtime --temperature 0"; \
	  echo; echo "The stock $$runtime engine answers (each answer is compared with the expected one):"; \
	  set -e; \
	  $$ask --expect '{"name": "Paul", "age": 31, "city": "Rome"}' \
	    "Write as JSON: a person named Paul is 31 and lives in Rome."; \
	  $$ask --expect "Reversed: house river stone" "Reverse: stone river house"; \
	  $$ask --image $(PICTURE) --expect "7" "What digit is this?"; \
	  $$ask --audio $(SPEECH) --expect "zero red" "Transcribe."; \
	done
	@echo; echo "The report: exported/nano-host-int4/report.html"; echo "The same on the GPU delegate: make demo-gpu"

demo-gpu: setup gpu-kit ## the same for a phone's GPU, on the GPU delegate over a software driver, launched twice
	$(BIN)/g3n-compile --target pixel --size nano --require-gpu
	@for launch in first second; do \
	  ask="$(BIN)/g3n-run exported/nano-pixel-int4 --backend gpu --temperature 0"; \
	  echo; echo "The stock engine on the GPU, $$launch launch (each answer is compared with the expected one):"; \
	  set -e; \
	  $$ask --expect '{"name": "Paul", "age": 31, "city": "Rome"}' \
	    "Write as JSON: a person named Paul is 31 and lives in Rome."; \
	  $$ask --image $(PICTURE) --expect "7" "What digit is this?"; \
	done

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup lint ## lint, types and tests
	@# Two workers with two threads each would wait for each other on two cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# The app's targets need Debian (or its apt), npm and Maven Central: they fetch a Kotlin compiler and packaging tools by name.
PARTS := build/android/parts

apk: ## build the sample app into build/android/g3n.apk, without an Android SDK
	@PYTHON=$(PYTHON) android_app/offline/fetch_parts.sh $(PARTS) jvm apk
	@PYTHON=$(PYTHON) android_app/offline/build_apk.sh $(PARTS) build/android

arm64-kit: setup ## put an emulated aarch64 machine into build/arm64, for g3n-verify --arch arm64
	@PYTHON=$(BIN)/python android_app/offline/fetch_parts.sh $(PARTS) arm64
	@android_app/offline/build_arm64.sh $(PARTS) build/arm64

gpu-kit: ## put a software Vulkan driver into build/gpu, on which the GPU delegate runs without a GPU
	@PYTHON=$(PYTHON) android_app/offline/fetch_parts.sh $(PARTS) gpu
	@mkdir -p build/gpu
	@cd $(PARTS)/gpu/usr/lib/chromium && \
	  cp libvulkan.so.1 libvk_swiftshader.so vk_swiftshader_icd.json $(CURDIR)/build/gpu/

test-gpu: setup gpu-kit ## nano on the GPU delegate: graphs, the stock engine's first three launches, a picture
	G3N_REQUIRE_GPU=1 $(BIN)/python -m pytest tests/gpu tests/elastic/test_gpu.py

test-app: apk arm64-kit ## the app's screens, code and engines on the JVM, the APK read back, parity on Arm
	@PYTHON=$(PYTHON) android_app/offline/fetch_parts.sh $(PARTS) screens
	@# The emulated machine runs on one core, beside all else.
	$(BIN)/python -m pytest -n 2 --dist loadgroup android_app/tests

clean: ## remove what the commands made
	rm -rf exported build $(VENV)
