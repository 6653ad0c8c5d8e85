# The doors: run, test, check, ui. Everything is installed into .venv from hash-pinned locks.
PYTHON ?= python3.11
V := .venv/bin
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export OMP_WAIT_POLICY := PASSIVE

.PHONY: run install install-dev test test-all check lock ui install-cluster install-spark benchmark-features benchmark-ingest benchmark-accuracy benchmark-tuning benchmark-reasons benchmark-watch benchmark-peers leak-table test-faults faults-table sbom audit

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

test: install-dev
	$(V)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: install-dev
	$(V)/python -m pytest -n 2 --dist loadfile

# Extras of the install: training on a Dask cluster (train.cluster), features on Spark (featurise.engine).
install-cluster install-spark: install-%: requirements/%.lock install
	test -e .venv/.installed-test || $(V)/uv pip install --python $(V)/python --quiet --require-hashes --no-build-isolation --requirement $<

# One door: format, lint, types, the one way of imports.
check: install-dev
	$(V)/ruff format --check .
	$(V)/ruff check .
	$(V)/mypy
	$(V)/lint-imports --no-cache

# Ingest against one DuckDB COPY; LARGE=100000000 adds ten times the rows (60 GB of scratch space).
benchmark-ingest: install
	$(V)/python -m benchmarks.ingest --large $(or $(LARGE),0)

# Re-resolve both locks; without UPGRADE=--upgrade the pinned versions stay.
LOCK := --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet
lock: | .venv/bin/uv
	cd requirements && ../$(V)/uv pip compile test.in --output-file test.lock $(LOCK) $(UPGRADE)
	cd requirements && ../$(V)/uv pip compile run.in --constraint test.lock --output-file run.lock $(LOCK) $(UPGRADE)
	cd requirements && ../$(V)/uv pip compile cluster.in --constraint test.lock --output-file cluster.lock $(LOCK) $(UPGRADE)
	cd requirements && ../$(V)/uv pip compile spark.in --constraint test.lock --output-file spark.lock $(LOCK) $(UPGRADE)
	cd requirements && ../$(V)/uv pip compile peers.in --output-file peers.lock $(LOCK) $(UPGRADE)
	$(V)/python -m pipeline.supply sbom

# The bill of materials of run.lock, and the audit that lock, bill and environment agree and that no advisory below
# BELLWETHER_ADVISORIES (a folder of OSV files) names a package; where it cannot answer it fails.
sbom:
	$(V)/python -m pipeline.supply sbom
audit:
	$(V)/python -m pipeline.supply audit

# The tracking store on http://127.0.0.1:5000, or the server of MLFLOW_TRACKING_URI in a browser of yours.
ui: install
	$(V)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/mlruns/mlflow.db --host 127.0.0.1 --port 5000

# Twelve dates of features against the same by hand, by direct join and in pandas; SCALE=--scale also at ten times the size.
benchmark-features: install-dev
	$(V)/python benchmarks/features.py $(SCALE)

# Reasons of 100,000 customers against pred_contrib, shap and woodelf, and of a million in one go; some ten minutes.
benchmark-reasons: install-dev
	$(V)/python -m benchmarks.reasons $(REASONS)

# A delivery between two runs against a full re-score, on a million customers: hours. WATCH="--customers 20000" for less.
benchmark-watch: install
	$(V)/python -m benchmarks.watch $(WATCH)

# FLAML and AutoGluon, which need older libraries than ours: an environment of their own, for the benchmarks alone.
benchmark-peers: .venv-peers/.installed
.venv-peers/.installed: requirements/peers.lock | .venv/bin/uv
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	$(V)/uv pip install --python .venv-peers/bin/python --quiet --require-hashes --requirement requirements/peers.lock
	touch $@

# The default recipe against FLAML, AutoGluon, untuned LightGBM and a scorecard; some four hours. ACCURACY="--sets berka" for less.
benchmark-accuracy: install benchmark-peers
	$(V)/python -m benchmarks.accuracy $(ACCURACY)

# The search against FLAML's on 100,000 rows and 300 columns; some forty minutes.
benchmark-tuning: install benchmark-peers
	$(V)/python -m benchmarks.tuning $(TUNING)

# Plant every leak of tests/leakage, and write which proof caught it and what it moved into LEAKS.md (some minutes).
leak-table: install-dev
	PYTHONPATH=. $(V)/python tests/leakage/table.py

# Every case of tests/faults/catalogue.yaml, its table in tests/faults/README.md, within an hour on two cores.
# FAULT_SEED=7 replays another draw; FAULT_MUTANTS, FAULT_KILLS, FAULT_RUN_KILLS, FAULT_EVENTS, FAULT_MONTHS for less.
test-faults: install-dev
	rm -f .run/faults.json
	PYTHONPATH=tests/faults $(V)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m fault -p fault_recording; \
	  code=$$?; $(V)/python tests/faults/fault_table.py && exit $$code

faults-table:
	$(V)/python tests/faults/fault_table.py
