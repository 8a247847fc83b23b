# make run        set up .venv and train, evaluate and export on the handwritten digits
# make test       the same environment plus the tests' tools, then all tests but repetitions
# make test-all   the repetitions too: more kills, more replicas, every benchmark
# make test-fast  the tests that need no long run
# make test-stack the tests of what may differ by version of TensorFlow
# make test-optional  the tests that run optional packages, but for PyTorch, which is big
# make lint       linter, formatter check, type checker
# make format     format the code
# make bench      measure speed and memory of this machine, about 12 minutes, as a table
# Another interpreter: make test-fast PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= -n 2 --dist worksteal

.PHONY: run test test-all test-fast test-stack test-optional lint format bench clean

run: $(VENV)/runtime
	$(BIN)/python run.py --mode=train_then_eval

test: $(VENV)/develop
	$(BIN)/python -m pytest $(TESTS) -m "not exhaustive"

test-all: $(VENV)/develop
	$(BIN)/python -m pytest $(TESTS)

test-fast: $(VENV)/develop
	$(BIN)/python -m pytest $(TESTS) -m "not slow and not exhaustive"

test-stack: $(VENV)/develop
	$(BIN)/python -m pytest $(TESTS) -m "stack and not exhaustive"

test-optional: $(VENV)/develop
	grep -v '^torch' requirements-optional.txt | $(BIN)/pip install --quiet --requirement /dev/stdin
	$(BIN)/python -c "import tf_simclr, onnx, onnxruntime, safetensors.numpy, tf2onnx"
	$(BIN)/python -m pytest $(TESTS) -m "not slow" tests/exports/test_onnx.py tests/interop/test_pytorch.py

lint: $(VENV)/develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/runtime
	$(BIN)/python -m benchmarks.table

clean:
	rm -rf $(VENV)

$(VENV)/runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/develop: $(VENV)/runtime requirements-dev.txt
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@
