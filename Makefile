# Set-up, rendering, checks. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
JOBS ?= jobs/demo.yaml
ARGS ?=

# A set-up is known by what it was made from: another pyproject.toml or constraints.txt makes another stamp,
# and an interrupted one has made none.
SUM := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
READY := .venv/ready-$(SUM)
READY_DEV := .venv/ready-dev-$(SUM)
RENDERER := .venv/bin/renderer

.PHONY: help setup setup-dev render proof plan validate report status doctor schema smoke nightly check test judge torture clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## */\t/' | expand -t 12

setup: $(READY)  ## make .venv (done by itself when needed)
setup-dev: $(READY_DEV)

define venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "renderer needs Python 3.11 or newer; set PYTHON=python3.x" >&2; exit 3; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv; $(PYTHON) -m venv .venv; } || { rm -rf .venv; echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 3; }
	@rm -f .venv/ready-*
endef

$(READY):
	$(venv)
	@echo "setting up .venv (torch is large: this takes some minutes, once)"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(READY_DEV): $(READY)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

render: $(READY)  ## render JOBS=jobs/….yaml (default: jobs/demo.yaml); ARGS="--until 07:00" adds options
	@$(RENDERER) render $(JOBS) $(ARGS)

proof: $(READY)  ## rehearse JOBS with the demo model
	@$(RENDERER) render $(JOBS) --proof $(ARGS)

plan: $(READY)  ## list what JOBS would render, and what is done
	@$(RENDERER) plan $(JOBS) $(ARGS)

validate: $(READY)  ## say what is wrong with JOBS
	@$(RENDERER) validate $(JOBS) $(ARGS)

report: $(READY)  ## write the page to look at: outputs/<name>/index.html
	@$(RENDERER) report $(JOBS) $(ARGS)

status: $(READY)  ## say how a run of JOBS stands; what is done, failed and to do
	@$(RENDERER) status $(JOBS) $(ARGS)

doctor: $(READY)  ## say what this machine is, and what it can render
	@$(RENDERER) doctor $(ARGS)

schema: $(READY)  ## write the committed JSON Schemas anew
	@.venv/bin/python -m renderer.schemas

smoke: $(READY)  ## one small picture with limits on time and memory
	@$(RENDERER) render jobs/smoke.yaml --force $(ARGS)

nightly: $(READY)  ## what cron calls: JOBS (a pattern in quotes is fine) until UNTIL (default 07:00), in plain lines
	@$(RENDERER) render $(JOBS) --until $(or $(UNTIL),07:00) --log-format plain $(ARGS)

check: $(READY_DEV)  ## ruff, mypy and the floors of the house
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: $(READY_DEV)  ## the tests
	.venv/bin/pytest $(ARGS)

judge: $(READY_DEV)  ## 300 held-out prompts before the judge: what the demo model draws
	.venv/bin/python -m tests.demo.judging $(ARGS)

torture: $(READY_DEV)  ## 1,000 kills at random moments, and one at every write point
	RENDERER_KILLS=1000 .venv/bin/pytest tests/test_torture.py -s $(ARGS)

clean:  ## remove .venv and caches; pictures stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
