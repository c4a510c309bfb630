# Set-up, rendering, checks. `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= $(or $(wildcard .venv/bin/python),python3)
TORCH ?=
JOBS ?= jobs/demo.yaml
ARGS ?=
TESTERS ?= 2

# A set-up is known by what it was made from: another pyproject.toml or constraints.txt makes another stamp,
# and an interrupted one has made none. A PYTHON or TORCH that somebody asks for is looked at once, for it is in the name.
SUM := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
SPACE := $(subst ,, )
ASKED := $(if $(filter file,$(origin PYTHON)),,-$(subst /,_,$(subst $(SPACE),_,$(PYTHON))))$(TORCH:%=-torch-%)
READY := .venv/ready-$(SUM)$(ASKED)
READY_DEV := .venv/ready-dev-$(SUM)$(ASKED)
SET_UP = "$(PYTHON)" -I tools/set_up.py $(TORCH:%=--torch=%) $(if $(filter file,$(origin PYTHON)),,--anew)

# By module, not by the script beside it: so it also works after the checkout was moved.
RENDERER := .venv/bin/python -m renderer

# GNU make ends with 2, whatever its commands end with: what the renderer ended with is said.
run = @$(RENDERER) $(1) || { code=$$?; echo "renderer's own exit code was $$code" >&2; exit $$code; }

.PHONY: help setup setup-dev render proof nightly validate plan status report doctor cluster estimate models bench compare again export replay schema \
  serve completion schemas merge add pause resume stop prune smoke check test judge judge-edits torture clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## */\t/' | expand -t 12

setup: $(READY)  ## make .venv (done by itself when needed); TORCH=cpu for torch's smaller build, without CUDA
setup-dev: $(READY_DEV)

define find_python
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; code=$$?; another=; case $$code in \
  0) ;; \
  1) echo "renderer needs Python 3.11 or newer, and $(PYTHON) is" "$$("$(PYTHON)" --version 2>&1)"; another=1 ;; \
  *) echo "renderer needs Python 3.11 or newer, and there is no $(PYTHON) here"; another=1 ;; \
esac >&2; [ -z "$$another" ] || { echo "name another: make PYTHON=python3.12 …" >&2; exit 3; }
endef

$(READY):
	$(find_python)
	@$(SET_UP) $@ .venv/ready-$(SUM)

$(READY_DEV): $(READY)
	@"$(PYTHON)" -I tools/set_up.py --dev $@ .venv/ready-dev-$(SUM) $(READY) .venv/ready-$(SUM)

render: $(READY)  ## render JOBS=jobs/….yaml (default: jobs/demo.yaml); ARGS="--until 07:00" adds options
	$(call run,render $(JOBS) $(ARGS))

proof: $(READY)  ## rehearse JOBS with the demo model
	$(call run,render $(JOBS) --proof $(ARGS))

nightly: $(READY)  ## render JOBS (a pattern in quotes is fine) until UNTIL (default 07:00), in plain lines
	$(call run,render $(JOBS) --until $(or $(UNTIL),07:00) --log-format plain $(ARGS))

validate: $(READY)  ## say what is wrong with JOBS
	$(call run,validate $(JOBS) $(ARGS))

plan: $(READY)  ## list what JOBS would render, and what is done
	$(call run,plan $(JOBS) $(ARGS))

status: $(READY)  ## say how a run of JOBS stands; what is done, failed and to do
	$(call run,status $(JOBS) $(ARGS))

merge: $(READY)  ## bring together what machines have rendered of JOBS' parts
	$(call run,merge $(JOBS) $(ARGS))

add: $(READY)  ## have a run that is on render JOBS too
	$(call run,add $(JOBS) $(ARGS))

pause: $(READY)  ## have a run that is on begin nothing more; resume has it go on, stop ends it
	$(call run,pause $(ARGS))

resume: $(READY)
	$(call run,resume $(ARGS))

stop: $(READY)
	$(call run,stop $(ARGS))

prune: $(READY)  ## list pictures that JOBS names no more; ARGS=--yes removes them
	$(call run,prune $(JOBS) $(ARGS))

serve: $(READY)  ## answer requests over HTTP, at http://127.0.0.1:8000; ARGS="--port 8080" adds options
	$(call run,serve $(ARGS))

report: $(READY)  ## write the page to look at: outputs/<name>/index.html
	$(call run,report $(JOBS) $(ARGS))

cluster: $(READY)  ## ARGS="doctor --cluster …": what the machines of a Ray cluster are
	$(call run,cluster $(ARGS))

doctor: $(READY)  ## say what this machine is, and what it can render
	$(call run,doctor $(ARGS))

estimate: $(READY)  ## memory of one kind of picture: ARGS="--size 1328x1328 --vram 10GiB"
	$(call run,estimate $(ARGS))

models: $(READY)  ## list the models; ARGS="pull ID" fetches one, and so on
	$(call run,models $(or $(ARGS),list))

bench: $(READY)  ## measure: ARGS="weights --folder DIR", "engine" or "memory"
	$(call run,bench $(ARGS))

completion: $(READY)  ## print a shell's completion script: ARGS=bash, zsh or fish
	$(call run,completion $(or $(ARGS),bash))

compare: $(READY)  ## render JOBS at several precisions, side by side: ARGS="--precision bf16,int8"
	$(call run,compare $(JOBS) $(ARGS))

again: $(READY)  ## render chosen pictures of JOBS once more: ARGS="--only @picked --steps 50"
	$(call run,again $(JOBS) $(ARGS))

export: $(READY)  ## copy chosen pictures of JOBS: ARGS="--only @picked --to chosen.zip"
	$(call run,export $(JOBS) $(ARGS))

replay: $(READY)  ## turn pictures into manifest entries: ARGS="PICTURE…"
	$(call run,replay $(ARGS))

schema: $(READY)  ## print a JSON Schema: ARGS=manifest, sidecar or summary
	$(call run,schema $(ARGS))

schemas: $(READY)  ## write the committed JSON Schemas anew, after a change of what they describe
	@.venv/bin/python -m renderer.schemas

ifdef URL
smoke: $(READY)  ## one small picture with limits, and one of Qwen/Qwen-Image on a GPU; URL=http://… asks a server for one
	$(call run,smoke --url $(URL) $(ARGS))
else
smoke: $(READY)
	$(call run,render jobs/smoke.yaml --force $(ARGS))
	@case "$$(.venv/bin/python -c 'from renderer.machine import hardware; print(hardware.look().gpu is not None)')" in \
	  False) echo "skipped: jobs/smoke-qwen.yaml renders with Qwen/Qwen-Image, and there is no NVIDIA GPU here" ;; \
	  True) $(RENDERER) render jobs/smoke-qwen.yaml --force $(ARGS) ;; \
	  *) exit 3 ;; \
	esac
endif

check: $(READY_DEV)  ## ruff, mypy and the floors of the house
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports

test: $(READY_DEV)  ## the tests, in TESTERS processes (default: 2; on a GPU, TESTERS=0: it is not shared)
	.venv/bin/python -m pytest -n $(TESTERS) --dist loadfile $(ARGS)

judge: $(READY_DEV)  ## 300 held-out prompts before the judge: what the demo model draws
	.venv/bin/python -m tests.demo.judging $(ARGS)

judge-edits: $(READY_DEV)  ## 200 held-out edits before the judge: what the demo's edit model makes of them
	.venv/bin/python -m tests.demo.editing $(ARGS)

torture: $(READY_DEV)  ## 1,000 kills at random moments, and one at every write point
	RENDERER_KILLS=1000 .venv/bin/python -m pytest tests/supervisor/test_torture.py -s $(ARGS)

clean:  ## remove .venv and caches; pictures stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
