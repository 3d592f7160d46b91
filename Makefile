# make demo    the whole job on real handwritten digits: train, export, boost, measure (CPU is enough)
# make test    the tests
# make fuzz    damaged and forged files, minutes of them (JBOOST_FUZZ=5000 for more of each kind)
# make check   lint, format and types
# Each makes its virtual environment when it is missing.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check fuzz clean

demo: $(READY)
	$(BIN)/python benchmarks/demo/run.py --out out/demo

# A test that hangs in C code, where no signal reaches Python: its stacks are printed, and the run ends.
NO_HANGS := -o faulthandler_timeout=330 -o faulthandler_exit_on_timeout=true --max-worker-restart 0

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(NO_HANGS)

# The types of the installed package: static tools do not follow the folders' mapping in an editable install.
check: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target build/typed .
	cd build/typed && $(abspath $(BIN))/mypy --config-file $(abspath pyproject.toml) -p jboost

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,dev]"
	touch $@

fuzz: $(READY)
	JBOOST_FUZZ=$${JBOOST_FUZZ:-500} $(BIN)/python -m pytest -q tests/fuzz --numprocesses auto --dist load

clean:
	rm -rf $(VENV) build out jboost.egg-info
