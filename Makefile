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

.PHONY: book test run render check sweep evidence evidence-check sync repo environment clean
.PHONY: torture bench models pdf site-test colab-test colab-constraints new-chapter links audit

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

evidence: environment  ## make results/ again; takes hours [SWEEPS="evidence ..."] [SEEDS=5] [SCHEDULER=tcp://...]
	@$(python) -m sa_lib.evidence make $(if $(SWEEPS),--sweeps $(SWEEPS)) $(if $(SEEDS),--seeds $(SEEDS)) \
	    $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

evidence-check: environment  ## make one cell of results/ again, and compare
	@$(python) -m sa_lib.evidence check

test: environment  ## the whole test suite, two files at a time
	@OMP_NUM_THREADS=1 $(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

torture: environment  ## the tests of what can go wrong, in their long forms; counts go to results/torture.json
	@TORTURE=results/torture.json OMP_NUM_THREADS=1 $(python) -m pytest -m torture -n 2 --dist loadfile --no-loadscope-reorder

bench: environment  ## time the library beside other tools, which it installs; results go to results/bench.json
	@$(python) -m pip --disable-pip-version-check install -q -c constraints.txt -e ".[bench,sweep]"
	@mkdir -p _build
	@OMP_NUM_THREADS=1 $(python) -m pytest benchmarks --benchmark-json=_build/bench.json

models: environment  ## pack the trained models of a run into one file, to be named by SA_MODELS
	@$(python) -m sa_lib.book models --run "$(RUN)"

new-chapter: environment  ## make new-chapter NAME=09_topic: a pair that works, to be made yours
	@$(python) -m sa_lib.book new-chapter "$(NAME)"

colab-test: environment  ## every chapter alone, in a bare environment like Colab's
	@$(python) -m pytest tests/test_colab.py -m "" --durations=0

colab-constraints:  ## put Colab's versions of what the library imports into constraints.txt (git restores it)
	@mkdir -p _build
	@curl -fsSL https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.txt -o _build/colab.txt
	@sed -nE -e 's/^(torch|torchvision)(==| @ .*\/(torch|torchvision)-)([0-9.]+).*/\1==\4/p' -e \
	    '/^(numpy|pandas|scipy|scikit-learn|matplotlib|seaborn|safetensors|platformdirs|tqdm)==/p' \
	    _build/colab.txt > constraints.txt
	@grep -q '^torch==' constraints.txt

links:  ## ask every address in the texts whether it is still there
	@$(PYTHON) tools/links.py

audit: environment  ## what is installed: its licences, and known vulnerabilities by pip-audit, which it installs
	@$(python) tools/licences.py
	@$(python) -m pip --disable-pip-version-check install -qqq pip-audit || \
	    { echo "error: pip-audit could not be fetched; it needs a network" >&2; exit 1; }
	@$(python) -m pip_audit --local --skip-editable --progress-spinner off

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
