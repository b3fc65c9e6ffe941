# make demo: everything from nothing to samples of digits. make test: lint and all tests. make test-fast: the tests that take
# less than a few seconds each. make lint: ruff and mypy. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

SLURM := slurm-wlm slurmdbd munge mariadb-server
ROOT := $(filter 0,$(shell id -u))

.PHONY: demo test test-fast lint gpu wheelhouse install debian-packages clean

demo: $(INSTALLED)
	$(BIN)/iddpm run configs/quickstart.yaml

# Tests on SLURM start a real one on this machine, which takes root, and those of the report's page want Chromium, which
# Ubuntu packages as a snap only. What cannot be had is left out, and that is said.
test: lint $(if $(ROOT),debian-packages)
	@left="$(if $(ROOT),,slurm root)"; \
	chromium --version >/dev/null 2>&1 || chromium-browser --version >/dev/null 2>&1 || left="$$left browser"; \
	marks=$$(echo $$left | sed 's/ / and not /g'); \
	$(BIN)/python -m pytest -n 3 --dist loadgroup $${marks:+-m "not $$marks"} tests || exit; \
	test -z "$$marks" || echo "left out: the tests marked $$left (no root, or no Chromium, here)"

# Without SLURM, without a browser, and without tests that train for several seconds: under 90 s on 2 cores.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not slurm and not browser and not slow" tests

# All that only a GPU can tell, in one go. Where there is no .venv: by the PYTHON that has torch and the other packages.
gpu:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu/run_all.py

# make wheelhouse PYTHON=3.12 WITHOUT=torch,numpy: the wheels that a machine without internet lacks.
wheelhouse:
	@test -x $(BIN)/python || $(MAKE) --no-print-directory install PYTHON=python3
	@$(BIN)/python -m slurm.wheelhouse $(if $(filter-out python3,$(PYTHON)),--python $(PYTHON)) $(if $(WITHOUT),--without $(WITHOUT))

lint: $(INSTALLED)
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy diffusion jobs slurm

debian-packages:
	@for program in slurmctld slurmd slurmdbd munged mariadbd chromium; do command -v $$program >/dev/null || missing=yes; done; \
	test -z "$$missing" || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(SLURM) chromium >/dev/null; }

install: $(INSTALLED)

# Debian's python3 comes without venv; root can mend that here, others are told.
$(INSTALLED): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python >= 3.10 is needed"'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  test "$$(id -u)" = 0 || { echo 'python3-venv is missing: sudo apt-get install python3-venv' >&2; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
