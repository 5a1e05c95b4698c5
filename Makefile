# make book    environment, chapters, site
# make test    environment, test suite
# Each run has a folder of its own, runs/$(RUN). README.md explains the variables.

PROFILE ?= full
# Runs with different parameters never share a folder.
RUN ?= $(PROFILE)$(if $(DATASET),-$(DATASET))$(if $(ARCHITECTURE),-$(ARCHITECTURE))$\
    $(if $(FORGET),-forget$(FORGET))$(if $(SEED),-seed$(SEED))
PYTHON ?= $(or $(shell for name in python3 python3.13 python3.12 python3.11; do \
    $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && \
    echo $$name && break; done),python3)
VENV ?= .venv

python := $(VENV)/bin/python
dataset := $(or $(DATASET),$(if $(filter smoke,$(PROFILE)),digits))
# A variable that is not set leaves the chapters' own default.
shared := -p profile "$(PROFILE)" $(if $(dataset),-p dataset "$(dataset)") \
          $(if $(ARCHITECTURE),-p architecture "$(ARCHITECTURE)")
parameters := $(shared) $(if $(FORGET),-p forget "$(FORGET)") \
              $(if $(SEED),-p seed "$(SEED)")

.PHONY: book run render check sweep evidence evidence-check models controls pdf strip slides sync new-chapter repo
.PHONY: test torture bench lint dist site-test colab-test colab-constraints links audit environment clean

book: run  ## run the missing chapters, then render the site
	@$(python) -m sa_lib.book render --run "$(RUN)"

run: environment  ## run the missing chapters [CHAPTERS="01_baseline ..."] [SCHEDULER=]
	@$(python) -m sa_lib.book run --run "$(RUN)" $(parameters) $(if $(SCHEDULER),--scheduler "$(SCHEDULER)") \
	    --chapters $(CHAPTERS)

render: environment  ## render the site of an existing run
	@$(python) -m sa_lib.book render --run "$(RUN)"

check: environment  ## compare a run's numbers with the book's claims
	@$(python) -m sa_lib.book check "runs/$(RUN)"

sweep: environment  ## run a chapter over a grid: CHAPTER=07_methods GRID="forget=0:10 seed=0:5" [NAME=] [SCHEDULER=]
	@$(python) -m sa_lib.book sweep --chapter "$(CHAPTER)" $(foreach axis,$(GRID),--grid '$(axis)') $(shared) \
	    $(if $(NAME),--name "$(NAME)") $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

evidence: environment  ## make the committed results again; takes hours [SWEEPS="evidence ..."] [SEEDS=5] [SCHEDULER=]
	@$(python) -m sa_lib.book evidence make $(if $(SWEEPS),--sweeps $(SWEEPS)) $(if $(SEEDS),--seeds $(SEEDS)) \
	    $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

evidence-check: environment  ## make one cell of the committed results again, and compare
	@$(python) -m sa_lib.book evidence check

test: environment  ## run the test suite, two files at a time
	@OMP_NUM_THREADS=1 $(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

torture: environment  ## run the long forms of tests/torture, about an hour; writes sa_lib/results/torture.json
	@TORTURE=sa_lib/results/torture.json OMP_NUM_THREADS=1 $(python) -m pytest -m torture \
	    -n 2 --dist loadfile --no-loadscope-reorder

bench: environment  ## install other tools, and time the library beside them; writes sa_lib/results/bench.json
	@$(python) -m pip --disable-pip-version-check install -q -c tools/constraints.txt -e ".[bench,book]"
	@mkdir -p _build
	@OMP_NUM_THREADS=1 $(python) -m pytest tests/bench --benchmark-json=_build/bench.json

lint: environment  ## check style with ruff and spelling with codespell
	@$(python) -m ruff check --quiet .
	@git ls-files -z --cached --others --exclude-standard -- ':!*.ipynb' | xargs -0 $(python) -m codespell_lib

models: environment  ## pack the trained models of a run into one file, for SA_MODELS
	@$(python) -m sa_lib.book models --run "$(RUN)"

controls: environment  ## train and pack models that never saw a class, for audits of others [SEEDS=9] [SCHEDULER=]
	@$(python) -m sa_lib.book controls $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SCHEDULER),--scheduler "$(SCHEDULER)")

strip: environment  ## write the chapters without solutions to _build/strip, for a course
	@$(python) -m sa_lib.book strip

slides: environment  ## write reveal.js slides of an existing run to _build/slides
	@$(python) -m sa_lib.book slides --run "$(RUN)"

new-chapter: environment  ## start a chapter that works: NAME=09_topic
	@$(python) -m sa_lib.book new-chapter "$(NAME)"

colab-test: environment  ## run every chapter alone, in a bare environment like Colab's
	@$(python) -m pytest tests/book/test_colab.py -m "" --durations=0

colab-constraints:  ## replace tools/constraints.txt by Colab's versions of the library's dependencies (git restores it)
	@mkdir -p _build
	@curl -fsSL https://raw.githubusercontent.com/googlecolab/backend-info/main/pip-freeze.txt -o _build/colab.txt
	@sed -nE -e 's/^(torch|torchvision)(==| @ .*\/(torch|torchvision)-)([0-9.]+).*/\1==\4/p' -e \
	    '/^(numpy|pandas|scipy|scikit-learn|matplotlib|seaborn|safetensors|platformdirs|tqdm)==/p' \
	    _build/colab.txt > tools/constraints.txt
	@grep -q '^torch==' tools/constraints.txt

links:  ## check that every web address in the texts still answers
	@$(PYTHON) tools/links.py

audit: environment  ## list the licenses of the installed packages and, with pip-audit, their known vulnerabilities
	@$(python) tools/licences.py
	@$(python) -m pip --disable-pip-version-check install -qqq pip-audit || \
	    { echo "error: pip-audit could not be installed; check the network" >&2; exit 1; }
	@$(python) -m pip_audit --local --skip-editable --progress-spinner off

dist: environment  ## build the wheel and the source archive, and try both in clean environments
	@$(python) tools/dist.py

pdf: environment  ## print the rendered site as _build/book.pdf; needs Chromium
	@$(python) tools/pdf.py _build/html

site-test: environment  ## check every page of the rendered site in Chromium
	@SITE=_build/html $(python) -m pytest tests/book/test_site.py

sync: environment  ## derive the .ipynb of every chapter from its .py
	@$(python) -m sa_lib.book sync

repo: environment  ## set the repository's address: URL=https://github.com/<owner>/<name>
	@$(python) -m sa_lib.book repo "$(URL)"

environment:  ## make or update the virtual environment in $(VENV)
	@$(PYTHON) tools/environment.py $(VENV)

clean:  ## delete the site and the runs; keep the environment and the trained models
	rm -rf _build runs
