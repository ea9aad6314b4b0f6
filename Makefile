# Each target sets up what it needs: a virtual environment in .venv, from exact pins, on a machine with Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers

.PHONY: demo test test-fast lint format bench docs clean

demo: .venv/ready
	$(BIN)/whence demo

# TensorFlow takes long to import, and longer beside the others: its tests are a process of their own.
test: .venv/ready $(PEERS)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/peers --ignore tests/frameworks
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/frameworks --ignore-glob "*tensorflow*"
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/frameworks/*tensorflow*
	OMP_WAIT_POLICY=passive $(PEERS)/bin/python -m pytest tests/peers

test-fast: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/peers --ignore tests/frameworks -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/ready $(PEERS)/ready
	OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 $(PEERS)/bin/python benchmarks/bench.py

docs: .venv/ready
	$(BIN)/python scripts/make_docs.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch,jax,onnx,dev]"
	touch $@

# The libraries we measure against see our environment, and ours does not see them.
$(PEERS)/ready: .venv/ready benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -c "import pathlib, site, sys; ours = pathlib.Path('.venv/lib', f'python{sys.version_info.major}.{sys.version_info.minor}', 'site-packages').resolve(); pathlib.Path(site.getsitepackages()[0], 'ours.pth').write_text(f'import site; site.addsitedir({str(ours)!r})\n')"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf .venv $(PEERS) whence-out whence-demo
