# `make run` and `make test` set up all they need in .venv on a machine with Python 3.10 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/sprites

CORE := objecthood/checkpoint/run.py,objecthood/checkpoint/header.py,objecthood/data/io/images.py,objecthood/data/io/archives.py,objecthood/data/loader.py

.PHONY: run test test-long coverage results docs demo site clean

run: .venv/ready
	@# A run that was stopped goes on; one that was finished shows its scores again.
	@if [ -e $(OUT)/metrics.jsonl ]; then $(BIN)/objecthood train --resume $(OUT); \
	else $(BIN)/objecthood train sprites --out $(OUT); fi
	@echo
	@echo "Open $(OUT)/index.html for scores, curves and images. The command is $(BIN)/objecthood. Next:"
	@echo "  $(BIN)/objecthood evaluate $(OUT) --floors            what needs no learning, beside the scores"
	@echo "  $(BIN)/objecthood predict IMAGES --out found          your own images, with bundled weights"
	@echo "  $(BIN)/objecthood demo                                a page on this machine"

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadgroup

# What takes minutes: kills at every system call, full disks, fuzzing. Writes docs/reliability.md.
test-long: .venv/ready
	rm -rf build/reliability.json
	$(BIN)/pytest -n 2 --dist loadgroup -m "long or not long" --scoreboard build/reliability.json
	mv build/reliability.json results/reliability.json
	$(BIN)/python runs/pages/tables.py

# Which branches the tests of `make test` take: of the core all, of everything 95 %.
coverage: .venv/ready
	$(BIN)/pytest -n 2 --dist loadgroup --cov=objecthood --cov-branch --cov-report=
	$(BIN)/coverage report --include "$(CORE)" --fail-under 100
	$(BIN)/coverage report --show-missing --skip-covered --fail-under 95

results: .venv/ready
	$(BIN)/python runs/pages/tables.py
	$(BIN)/python runs/pages/metric_examples.py

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open http://127.0.0.1:8764 (Ctrl-C stops the server). Without search, build/docs/index.html opens alone."
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/docs 8764

demo: .venv/ready
	$(BIN)/objecthood demo

# The page of the demo as plain files for any web host; needs npm besides.
site: .venv/ready web/node_modules/.package-lock.json
	rm -rf build/site
	$(BIN)/objecthood demo --site build/site

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund --prefix web

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
