# The doors: run, test, check, ui. Everything is installed into .venv from hash-pinned locks.
PYTHON ?= python3.11
V := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export OMP_WAIT_POLICY := PASSIVE

.PHONY: run install install-dev test test-all test-faults check lock ui clean

run: install
	$(V)/python -m pipeline run

install: .venv/.installed-run
install-dev: .venv/.installed-test

# uv itself comes from the lock, by pip in hash mode; uv then makes the environment equal to the lock and compiles it.
.venv/bin/uv: requirements/run.lock
	test -x $(V)/python || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p;/^setuptools==/,/[^\\]$$/p' requirements/run.lock > .venv/bootstrap.lock
	$(V)/python -m pip install --quiet --require-hashes --requirement .venv/bootstrap.lock
	touch $@

# An environment that already holds the test lock (a superset) is left as it is.
.venv/.installed-run: requirements/run.lock | .venv/bin/uv
	test -e .venv/.installed-test || $(V)/uv pip install --python $(V)/python --quiet --compile-bytecode --require-hashes --no-build-isolation --requirement requirements/run.lock
	touch $@

.venv/.installed-test: requirements/test.lock | .venv/bin/uv
	$(V)/uv pip install --python $(V)/python --quiet --compile-bytecode --require-hashes --no-build-isolation --requirement requirements/test.lock
	touch $@ .venv/.installed-run
