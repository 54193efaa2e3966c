# make study makes a study; make help says what else there is. Each makes the environment that it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PROFILE ?=
NAME ?=
DATA ?=
MODEL ?=
RATIOS ?=
SEEDS ?=
ARMS ?=
CROSS ?=
KERNEL ?=
SCHEDULER ?=
ALLOW_CPU ?=
DEVICE ?=
# Any other options of the verb: make study ARGS='--epochs 4'.
ARGS ?=

# By way of the environment: whatever signs a folder's name has, the shell leaves them alone.
export DATA MODEL
WITH = $(if $(PROFILE),--profile '$(PROFILE)') $(if $(NAME),--name '$(NAME)') $(if $(DATA),--data "$$DATA") \
	$(if $(MODEL),--model "$$MODEL")
WHAT = $(WITH) $(if $(RATIOS),--ratios $(RATIOS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ARMS),--arms $(ARMS))
HERE = $(if $(KERNEL),--kernel '$(KERNEL)') $(if $(ALLOW_CPU),--allow-cpu)
WHERE = $(HERE) $(if $(SCHEDULER),--scheduler '$(SCHEDULER)')
OF = --name '$(or $(NAME),$(PROFILE),embedded)'

.PHONY: study help install doctor estimate robustness ship test test-browser test-faults test-paper test-long lab demo report bench batching lint lock clean

study: $(VENV)/installed ## make a study and its report: PROFILE=, NAME=, DATA=, MODEL=, RATIOS=, SEEDS=, ARMS=, ARGS='--epochs 4'
	$(BIN)/python -m docfloqa study $(WHAT) $(WHERE) $(ARGS)

install: $(VENV)/installed ## make the environment that all others need, .venv

help: ## one line a target
	@sed -n "s/^\([a-z-]*\):.*## /\1:/p" $(MAKEFILE_LIST) | awk -F: '{ printf "make %-14s%s\n", $$1, substr($$0, length($$1) + 2) }'

doctor: $(VENV)/installed ## what make study would meet here, line by line, before anything is downloaded
	$(BIN)/python -m docfloqa doctor $(WHAT) $(HERE) $(ARGS)

estimate: $(VENV)/installed ## time, memory and disk of what make study would make
	$(BIN)/python -m docfloqa estimate $(WHAT) $(ARGS)

report: $(VENV)/installed ## analyse a study's runs and export its report again: NAME=
	$(BIN)/python -m docfloqa report $(OF) $(ARGS)

robustness: $(VENV)/installed ## score a study's best models on bad scans and on other data: NAME=, CROSS=
	$(BIN)/python -m docfloqa robustness $(OF) $(if $(CROSS),--cross $(CROSS)) $(ARGS)

ship: $(VENV)/installed ## that study again; the results in the repository are of commit 40f2823 (see README)
	$(BIN)/python -m docfloqa study --name shipped --seeds 0 1 2 --arms cumulative prefix lora side
	$(BIN)/python -m docfloqa pack shipped

# Two processes, a file of tests in each at a time: shared studies and models are made once.
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed ## run the tests
	$(PYTEST) -m "not long"

lab: $(VENV)/installed ## open the notebooks in JupyterLab
	$(BIN)/python -m docfloqa lab

# The playground as a web page, for this machine only; the address that it prints holds a token.
demo: $(VENV)/installed ## the playground as a web page, for this machine only: NAME=
	$(BIN)/python -m docfloqa demo $(OF) $(ARGS)

# JupyterLab and the demo in a real browser, Debian's chromium (CHROMIUM=... for another).
test-browser: $(VENV)/installed ## test JupyterLab and the demo in a real browser (CHROMIUM=... for another than Debian's)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'playwright>=1.50'
	command -v "$${CHROMIUM:-chromium}" > /dev/null || { apt-get update -q && apt-get install -qy chromium; }
	$(PYTEST) tests/browser

# Against the published way; on a machine that does nothing else. DEVICE=cuda measures a GPU.
bench: $(VENV)/installed ## measure training and evaluation against the published way: MODEL=, DEVICE=cuda
	$(BIN)/python benchmarks/throughput.py --model $(or $(MODEL),tiny) --device $(or $(DEVICE),cpu)

# Whether keeping the questions of a page together changes what is learnt; compares with the shipped runs.
batching: $(VENV)/installed ## compare batches by page with batches of single questions
	$(BIN)/python -m docfloqa sweep --name uniform --seeds 0 1 2 --batching uniform
	$(BIN)/python benchmarks/batching.py

# Kills, corruption, bad input, longer than what make test has of them; and the benchmarks' commands.
test-faults: $(VENV)/installed ## test kills, corruption and bad input at length, and the benchmarks' commands
	$(PYTEST) tests/faults tests/benchmarks

# The paper profile to its end without a GPU: with its defaults on small files of the real structure, and on a model of
# Florence-2-base's size with random weights.
test-paper: $(VENV)/installed ## test the paper profile to its end without a GPU
	$(PYTEST) tests/paper

# Both in one go, in which no process waits for the other, and what of the other tests takes long: what continuous
# integration runs.
test-long: $(VENV)/installed ## what test-paper and test-faults test, minutes sooner, and the longest of the other tests
	$(PYTEST) -m long tests/paper tests/faults tests/benchmarks tests/unit tests/notebooks

lint: $(VENV)/installed ## check style, imports and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/nbstripout --verify --extra-keys "metadata.papermill cell.metadata.papermill metadata.widgets" notebooks/*.ipynb

# Pins what is installed now. A local version (torch's +cpu) is no version that others can install.
lock: $(VENV)/installed ## pin what is installed now in requirements.lock
	{ sed -n '/^#/p' requirements.lock; $(BIN)/pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > requirements.new
	mv requirements.new requirements.lock

$(VENV)/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean: ## remove the environment
	rm -rf $(VENV)
