# make book    environment, chapters, site      make test    environment, tests
# Each run is kept in runs/$(RUN); see README.md for the variables.

PROFILE ?= full
# Runs with other parameters never share a folder.
RUN ?= $(PROFILE)$(if $(DATASET),-$(DATASET))$(if $(ARCHITECTURE),-$(ARCHITECTURE))$\
    $(if $(FORGET),-forget$(FORGET))$(if $(SEED),-seed$(SEED))
PYTHON ?= $(or $(shell for name in python3 python3.13 python3.12 python3.11; do \
    $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && \
    echo $$name && break; done),python3)
VENV ?= .venv

python := $(VENV)/bin/python
dataset := $(or $(DATASET),$(if $(filter smoke,$(PROFILE)),digits))
# What is not set is left to the chapters' own defaults.
shared := -p profile "$(PROFILE)" $(if $(dataset),-p dataset "$(dataset)") \
          $(if $(ARCHITECTURE),-p architecture "$(ARCHITECTURE)")
parameters := $(shared) $(if $(FORGET),-p forget "$(FORGET)" -p forget_sequence "[$(FORGET)]") \
              $(if $(SEED),-p seed "$(SEED)")

.PHONY: book test run render check sweep evidence evidence-check pdf site-test sync repo environment clean

book: run  ## run what is missing, then render the site
	@$(python) -m sa_lib.book render --run "$(RUN)"

run: environment  ## execute the chapters (CHAPTERS="01_baseline ...": only these)
	@$(python) -m sa_lib.book run --run "$(RUN)" $(parameters) --chapters $(CHAPTERS)

render: environment  ## render a run again
	@$(python) -m sa_lib.book render --run "$(RUN)"

check: environment  ## hold a run's numbers to the book's claims
	@$(python) -m sa_lib.check "runs/$(RUN)"

sweep: environment  ## CHAPTER=07_methods GRID="forget=0:10 seed=0:5" [SCHEDULER=tcp://...] [NAME=...]
	@$(python) -m sa_lib.sweep --chapter "$(CHAPTER)" $(foreach axis,$(GRID),--grid '$(axis)') $(shared) \
	    $(if $(NAME),--name "$(NAME)") $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

evidence: environment  ## make results/ again; takes hours [SEEDS=5] [SCHEDULER=tcp://...]
	@$(python) -m sa_lib.evidence make $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

evidence-check: environment  ## make one cell of results/ again, and compare
	@$(python) -m sa_lib.evidence check

test: environment  ## the whole test suite
	@$(python) -m pytest

pdf: environment  ## the rendered site as _build/book.pdf; needs Chromium
	@$(python) tools/pdf.py _build/html

site-test: environment  ## look at the rendered site with Chromium
	@SITE=_build/html $(python) -m pytest tests/test_site.py

sync: environment  ## derive every notebook's .ipynb from its .py
	@$(python) -m sa_lib.book sync

repo: environment  ## make repo URL=https://github.com/<owner>/<name>
	@$(python) -m sa_lib.book repo "$(URL)"

environment:
	@$(PYTHON) tools/environment.py $(VENV)

clean:  ## remove the site and the runs; keep the environment and the trained models
	rm -rf _build runs
