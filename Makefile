# FedLLM-Bench. `make help` lists every target with its variables.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?=
VENV ?= .venv
DATASET ?= aya
METHOD ?= fedavg
PROFILE ?=
SEED ?=
ENGINE ?=
VARIANT ?=
METHODS ?=
SEEDS ?=
JOBS ?=
SHARD ?=
FROM ?=
ZIP ?=
RUN ?=
CLIENT ?=
TEAM ?=
CONTACT ?=
TUNING ?=
TITLE ?=
URL ?=
TRACK ?=
JUDGE ?=
MAX_COST ?=
SUBMISSIONS ?=
AGAINST ?=
EMBEDDER ?=
TOKENIZER ?=
ONLY ?=
SPLIT ?=
MODEL ?=
METRICS ?=
SET ?=
OUT ?=
SPACE ?=
TRIALS ?=
SEARCH ?=
TABLE ?=

# a misspelt variable would be ignored in silence, and another run be shown than was asked for
OF_GOAL := $(if $(filter grid,$(MAKECMDGOALS)),METHODS TABLE SEEDS JOBS SHARD,$(if $(filter tune,$(MAKECMDGOALS)),METHOD SPACE TRIALS SEARCH SEEDS JOBS,$(if $(filter download,$(MAKECMDGOALS)),FROM ZIP,$(if $(filter merge,$(MAKECMDGOALS)),RUN CLIENT,$(if $(filter evaluate,$(MAKECMDGOALS)),RUN JUDGE MAX_COST,$(if $(filter submit,$(MAKECMDGOALS)),RUN TEAM CONTACT TUNING TITLE URL TRACK,$(if $(filter board,$(MAKECMDGOALS)),SUBMISSIONS,$(if $(filter diversity,$(MAKECMDGOALS)),AGAINST EMBEDDER TOKENIZER ONLY SEED,METHOD SEED))))))))
KNOWN := PYTHON VENV DATASET $(OF_GOAL) PROFILE ENGINE VARIANT SPLIT MODEL METRICS SET OUT
UNKNOWN := $(filter-out $(KNOWN),$(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error no variable $(UNKNOWN); there are: $(KNOWN) (see make help)))

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLI := $(BIN)/fedllm-bench
# a text as one word of the shell, whatever signs are in it
text = '$(subst ','\'',$(1))'
# each word of SET is one --set; an empty variable adds no option
OPTIONS = $(if $(PROFILE),--profile $(call text,$(PROFILE))) $(if $(ENGINE),--engine $(call text,$(ENGINE))) \
	$(if $(VARIANT),--variant $(call text,$(VARIANT))) $(if $(SPLIT),--split $(call text,$(SPLIT))) $(if $(MODEL),--model $(call text,$(MODEL))) \
	$(if $(METRICS),--metrics $(call text,$(METRICS))) $(foreach word,$(SET),--set $(call text,$(word))) $(if $(OUT),--out $(call text,$(OUT)))

.PHONY: help setup bench grid tune download merge evaluate diversity submit board speed speed-peers speed-gpu test test-data test-slow test-lowest test-gpu check format mini-model clean

help:
	@echo 'FedLLM-Bench: the benchmark of federated learning for large language models; [defaults]'
	@echo '  make bench       run one cell and show its results: make bench METHOD=fedprox SET="local.lr=1e-4"'
	@echo '                     METHOD [fedavg] fedprox scaffold fedavgm fedadagrad fedyogi fedadam feddyn'
	@echo '                       dp_fedavg hetlora ditto pfedme fedrep fedem fedmezo fedkseed central local'
	@echo '                     DATASET [aya]  SEED [0]  ENGINE [inprocess] | ray  SPLIT folder  METRICS a,b'
	@echo '                     MODEL name | folder | hub id  SET "key=value ..."  VARIANT [paper] | released'
	@echo '                     PROFILE mini | small | gpu24 | paper  OUT [runs]'
	@echo '  make grid        methods and seeds, one table: make grid METHODS=fedavg,fedprox,local SEEDS=0,1,2'
	@echo '                     DATASET one | a,b | all  METHODS [all]  SEEDS [0,1,2]  JOBS [cores]  SHARD I/N'
	@echo '                     TABLE methods | .toml  and the variables of bench but METHOD and SEED'
	@echo '  make tune        choose settings: make tune METHOD=fedprox SPACE="method.mu=log:1e-3..1" TRIALS=16'
	@echo '                     SEARCH [tpe] | random | halving  SEEDS [100]  JOBS  and the variables of bench'
	@echo '  make download    a prebuilt client split: FROM official | hub:ORG/NAME@REV | https://...  ZIP  OUT'
	@echo '  make merge       a run as a plain model: RUN run folder  CLIENT whose adapter (local)  OUT folder'
	@echo '  make evaluate    answers to benchmarks, open-ended and closed: make evaluate RUN=runs/...'
	@echo '                     RUN run folder  METRICS a,b  JUDGE preset | .toml [none]  MAX_COST USD  ENGINE'
	@echo '  make diversity   how clients of a split differ: make diversity DATASET=aya | SPLIT=splits/aya'
	@echo '                     AGAINST another split  EMBEDDER lsa | encoder  TOKENIZER [mini] | folder'
	@echo '                     MODEL of IFD: mini | folder | none  ONLY sections [all]  SEED [0]  OUT'
	@echo '  make submit      runs of one cell to the leaderboard: make submit RUN=runs/mini-aya/fedavg ...'
	@echo '                     RUN run folders  TEAM  CONTACT  TUNING  TITLE of the row  URL  TRACK  OUT'
	@echo '  make board       the site of the leaderboard  SUBMISSIONS [leaderboard/submissions]  OUT'
	@echo
	@echo '  make test        unit tests, 4 minutes on 2 cores    make test-slow    long and end to end'
	@echo '  make test-data   on assets and real rows             make test-lowest  lowest supported versions'
	@echo '  make test-gpu    what needs a CUDA GPU               make check        format, lint, types, floors'
	@echo '  make speed       against PEFT and TRL, or on a MODEL make speed-peers  against Flower and pfl'
	@echo '  make speed-gpu   all speeds and peaks on one GPU     make format       mend what can be mended'
	@echo '  make mini-model  pre-train the embedded base         make setup        only the environment'
	@echo '  make clean       remove caches of tools              PYTHON [newest]   VENV [.venv]'

setup: $(STAMP)

# Rebuilt only when what is to be installed changes; the stamp is written last, so a broken set-up is repeated.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@sh .ci/setup.sh '$(VENV)' '$(PYTHON)'
	@touch $@

bench: $(STAMP)
	@$(CLI) bench $(call text,$(DATASET)) $(call text,$(METHOD)) $(if $(SEED),--seed $(call text,$(SEED))) $(OPTIONS)

grid: $(STAMP)
	@$(CLI) grid $(call text,$(DATASET)) $(if $(METHODS),--methods $(call text,$(METHODS))) $(if $(TABLE),--table $(call text,$(TABLE))) $(if $(SEEDS),--seeds $(call text,$(SEEDS))) $(if $(JOBS),--jobs $(call text,$(JOBS))) $(if $(SHARD),--shard $(call text,$(SHARD))) $(OPTIONS)

tune: $(STAMP)
	@$(CLI) tune $(call text,$(DATASET)) $(call text,$(METHOD)) --space $(call text,$(SPACE)) $(if $(TRIALS),--trials $(call text,$(TRIALS))) $(if $(SEARCH),--search $(call text,$(SEARCH))) $(if $(SEEDS),--seeds $(call text,$(SEEDS))) $(if $(JOBS),--jobs $(call text,$(JOBS))) $(OPTIONS)

download: $(STAMP)
	@$(CLI) data get $(call text,$(DATASET)) $(if $(FROM),--from $(call text,$(FROM))) $(if $(ZIP),--zip $(call text,$(ZIP))) $(if $(OUT),--out $(call text,$(OUT)))

merge: $(STAMP)
	@$(CLI) merge $(call text,$(RUN)) $(if $(CLIENT),--client $(call text,$(CLIENT))) $(if $(OUT),--out $(call text,$(OUT)))

evaluate: $(STAMP)
	@$(CLI) evaluate $(call text,$(RUN)) $(if $(METRICS),--metrics $(call text,$(METRICS))) $(if $(ENGINE),--engine $(call text,$(ENGINE))) $(if $(JUDGE),--judge $(call text,$(JUDGE))) $(if $(MAX_COST),--max-cost $(call text,$(MAX_COST)))

diversity: $(STAMP)
	@$(CLI) diversity $(if $(SPLIT),$(call text,$(SPLIT)),$(call text,$(DATASET))) $(if $(AGAINST),--against $(call text,$(AGAINST))) $(if $(EMBEDDER),--embedder $(call text,$(EMBEDDER))) \
		$(if $(TOKENIZER),--tokenizer $(call text,$(TOKENIZER))) $(if $(MODEL),--quality-model $(call text,$(MODEL))) $(if $(ONLY),--only $(call text,$(ONLY))) \
		$(if $(SEED),--seed $(call text,$(SEED))) $(if $(OUT),--out $(call text,$(OUT)))

submit: $(STAMP)
	@$(CLI) submit $(foreach run,$(RUN),$(call text,$(run))) --team $(call text,$(TEAM)) --contact $(call text,$(CONTACT)) --tuning $(call text,$(TUNING)) $(if $(TITLE),--method $(call text,$(TITLE))) \
		$(if $(URL),--url $(call text,$(URL))) $(if $(TRACK),--track $(call text,$(TRACK))) $(if $(OUT),--out $(call text,$(OUT)))

board: $(STAMP)
	@$(CLI) board build $(if $(SUBMISSIONS),--submissions $(call text,$(SUBMISSIONS))) $(if $(OUT),--out $(call text,$(OUT)))

speed: $(STAMP)
	@$(BIN)/python benchmarks/perf/speed.py $(if $(MODEL),--model $(call text,$(MODEL))) $(foreach word,$(SET),--set $(call text,$(word))) $(if $(OUT),--out $(call text,$(OUT)))

speed-peers: $(STAMP)
	@$(BIN)/python benchmarks/perf/peers.py $(if $(OUT),--out $(call text,$(OUT)))

speed-gpu: $(STAMP)
	@$(BIN)/python benchmarks/perf/gpu.py $(if $(OUT),--out $(call text,$(OUT)))

# as the command does for itself: without it glibc gives large blocks back to the kernel and faults them in again
test test-data test-slow: export MALLOC_MMAP_THRESHOLD_ := 4294967296
test test-data test-slow: export MALLOC_TRIM_THRESHOLD_ := 17179869184
test test-data test-slow: export MALLOC_TOP_PAD_ := 268435456

# one worker for each core; a file's tests stay together, since they share what they have set up
test test-data test-slow: export OMP_NUM_THREADS := 1
test test-data test-slow: WORKERS = $(shell $(BIN)/python -c 'import xdist' 2>/dev/null && printf '%s' '-n auto --dist loadfile')
test: $(STAMP)
	@$(BIN)/python -m pytest $(WORKERS)

test-data: $(STAMP)
	@$(BIN)/python -m pytest $(WORKERS) -m '(assets or rows) and not slow and not gpu'

test-slow: $(STAMP)
	@$(BIN)/python -m pytest $(WORKERS) -m slow --durations=20

test-gpu: $(STAMP)
	@$(BIN)/python -m pytest -m gpu

# with the lowest versions that are supported, what must equal a reference: TRL, PEFT, one client at a time
EQUALITY := tests/training/test_trl.py tests/training/test_trl_dpo.py tests/training/test_block.py tests/training/test_dpo.py tests/data/build/test_hub_rows.py tests/training/model/test_quantized.py tests/training/model/test_dora.py tests/training/model/test_full.py
$(VENV)-lowest/.installed: setup.cfg pyproject.toml constraints-lowest.txt
	@sh .ci/setup.sh '$(VENV)-lowest' '$(PYTHON)' constraints-lowest.txt
	@touch $@

test-lowest: $(VENV)-lowest/.installed
	@$(VENV)-lowest/bin/python -m pytest $(EQUALITY) -m 'not gpu'

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

mini-model: $(STAMP)
	@$(BIN)/python -m fedllm_bench.mini.pretrain

clean:
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
