# The front door: every target calls one script. `make` prints the targets.

PYTHON ?= python3
# where the settings are, if not in deploy/backup.env
CONFIG ?=
# which environment a command is about, and whose snapshot a restore takes
ENV ?=
FROM ?=
# which snapshot restore, verify, changes, open and bring-back take: an ID, latest, latest~2; or the newest of a time or before
SNAPSHOT ?=
AT ?=
# with which snapshot changes compares it
TO ?=
# 1 for the rows that differ or come back
ROWS ?=
# whose rows bring-back brings back, by address, and of which tables, those of all if left out; whom erased is about
WHO ?=
TABLES ?=
# 1 for snapshots to fetch and count those whose rows are not on record
ALL ?=
# where open leaves its copy
FILE ?=
# tables of which restore takes no rows: outbox,session_cache
WITHOUT ?=
# what a clone (restore with FROM) brings along: quarantined, masked or whole
CLONE ?=
# ignore for restore and undo to bring erased members back, where the list of erasures cannot be read
ERASED ?=
# 1 for the off-site repository in the place of the first
OFFSITE ?=
# what a pinned snapshot is for
NOTE ?=
# whose key
NAME ?=
# 1 for a recovery sheet in HTML
HTML ?=
# the arguments of restic
ARGS ?=
# which tests: a file, or one test in it (tests/sqlite/test_swap.py::test_name); all if left out
T ?=
# which Debian make test-in makes, and as whom it runs the tests there: root, user, or one after the other
SUITE ?= trixie
AS ?=
# 1 for systemd's timers in place of the crontab
TIMERS ?=
# the answer to the questions of init, bring-back, restore, undo and install, given beforehand
YES ?=

# make would expand a value that it was given, and run a $(shell ...) in it. So each is taken as it is, those that are
# exported without being read here too; and recipes read them from their shell's environment, so that no shell parses one.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(eval override export $(name) := $$(value $(name)))))
VALUES := PYTHON CONFIG ENV FROM SNAPSHOT AT TO ROWS WHO TABLES ALL FILE WITHOUT CLONE ERASED OFFSITE NOTE NAME HTML ARGS T SUITE AS TIMERS YES
$(foreach name,$(VALUES),$(eval override export $(name) := $$(value $(name))))

override SHELL := /bin/sh
override ENVIRONMENTS := production demo
override NEED_ENV := backup pin unpin retention changes open bring-back accept restore undo verify erased
override NEED_NAME := key-add key-remove
override NEED_SNAPSHOT := pin unpin
override KNOW_OFFSITE := init snapshots retention changes open bring-back restore verify erased keys key-add key-remove restic
override GOALS := $(value MAKECMDGOALS)

ifneq ($(filter $(NEED_ENV),$(GOALS)),)
  ifeq ($(ENV),)
    $(error $(firstword $(GOALS)) needs an environment: ENV=production or ENV=demo)
  endif
endif
ifneq ($(filter erased,$(GOALS)),)
  ifeq ($(WHO),)
    $(error erased needs a member: WHO=anna@example.org)
  endif
endif
ifneq ($(filter $(NEED_NAME),$(GOALS)),)
  ifeq ($(NAME),)
    $(error $(firstword $(GOALS)) needs a name: NAME=anna)
  endif
endif
ifneq ($(filter $(NEED_SNAPSHOT),$(GOALS)),)
  ifeq ($(SNAPSHOT),)
    $(error $(firstword $(GOALS)) needs a snapshot: SNAPSHOT=<id> or SNAPSHOT=latest)
  endif
endif
ifneq ($(OFFSITE),)
  ifneq ($(filter-out $(KNOW_OFFSITE),$(GOALS))$(filter-out 1,$(OFFSITE)),)
    $(error OFFSITE=1 is for $(KNOW_OFFSITE))
  endif
endif
ifneq ($(WITHOUT)$(CLONE),)
  ifneq ($(filter-out restore,$(GOALS)),)
    $(error $(if $(WITHOUT),WITHOUT,CLONE) is for restore)
  endif
endif
ifneq ($(ERASED),)
  ifneq ($(filter-out restore undo,$(GOALS)),)
    $(error ERASED is for restore and undo)
  endif
endif
ifneq ($(filter install uninstall,$(GOALS)),)
  ifneq ($(CONFIG),)
    $(error $(firstword $(GOALS)) takes the settings from deploy/backup.env, not from CONFIG)
  endif
endif
ifneq ($(filter-out $(ENVIRONMENTS),$(ENV) $(FROM)),)
  $(error unknown environment '$(firstword $(filter-out $(ENVIRONMENTS),$(ENV) $(FROM)))': there are production and demo)
endif

ifneq ($(CONFIG),)
  override export DODEKA_BACKUP_ENV := $(CONFIG)
endif
override OFFSITE_FLAG := $(if $(OFFSITE),--offsite)
override YES_FLAG := $(if $(filter 1 yes,$(YES)),--yes)

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  ENV=production|demo, FROM=production|demo, SNAPSHOT=<id>|latest, AT=<time>, TO=<id>|<time>, ROWS=1,'
	@echo '  WHO=<address>, TABLES=<names>, ALL=1, FILE=<new file>, WITHOUT=<tables>, CLONE=quarantined|masked|whole, ERASED=ignore,'
	@echo '  NOTE=<why>, OFFSITE=1, NAME=<who>, HTML=1, YES=1, TIMERS=1, CONFIG=<settings file>, ARGS=<of restic>, T=<file of tests>'

##@ every day

.PHONY: status
status: ## is all well? the worst first, with what fixes it; HTML=1: as a page
	@bin/dodeka-db-status.py $(if $(HTML),--html)

.PHONY: snapshots
snapshots: ## the snapshots of ENV, or of both, and what changed in the number of rows; ALL=1: count all
	@bin/dodeka-db-snapshots.py $${ENV:+"$$ENV"} $(if $(filter 1,$(ALL)),--all) $(OFFSITE_FLAG)

.PHONY: backup
backup: ## take a snapshot of ENV now; NOTE="before the update": a pinned one
	@bin/dodeka-db-backup.py "$$ENV" $${NOTE:+--note="$$NOTE"}

.PHONY: cron
cron: ## what cron runs: a snapshot of ENV (production), then retention
	@bin/dodeka-db-cron.py $${ENV:+"$$ENV"}

.PHONY: verify
verify: ## the drill: prove that ENV's newest snapshot (or SNAPSHOT, AT) is a whole database
	@bin/dodeka-db-verify.py "$$ENV" $${SNAPSHOT:+--snapshot="$$SNAPSHOT"} $${AT:+--at="$$AT"} $(OFFSITE_FLAG)

.PHONY: check
check: ## check the repository, and read a quarter of its data
	@bin/dodeka-db-check.py

.PHONY: offsite
offsite: ## copy the snapshots that are missing to OFFSITE_REPOSITORY
	@bin/dodeka-db-offsite.py

##@ after an accident

.PHONY: changes
changes: ## what differs between a snapshot and the live database, or the snapshot TO; ROWS=1: which rows
	@bin/dodeka-db-changes.py "$$ENV" $${SNAPSHOT:+--snapshot="$$SNAPSHOT"} $${AT:+--at="$$AT"} $${TO:+--to="$$TO"} $(if $(filter 1,$(ROWS)),--rows) $(OFFSITE_FLAG)

.PHONY: open
open: ## look into a snapshot with sqlite3, which reads a copy; FILE=$HOME/copy.sqlite: keep the copy instead
	@bin/dodeka-db-open.py "$$ENV" $${SNAPSHOT:+--snapshot="$$SNAPSHOT"} $${AT:+--at="$$AT"} $${FILE:+--file="$$FILE"} $(OFFSITE_FLAG)

.PHONY: bring-back
bring-back: ## put back the rows of a snapshot that are missing now, of WHO or of all; nothing else changes
	@bin/dodeka-db-bring-back.py "$$ENV" $${SNAPSHOT:+--snapshot="$$SNAPSHOT"} $${AT:+--at="$$AT"} $${WHO:+--who="$$WHO"} $${TABLES:+--tables="$$TABLES"} $(if $(filter 1,$(ROWS)),--rows) $(OFFSITE_FLAG) $(YES_FLAG)

.PHONY: accept
accept: ## say that ENV was meant to lose the rows because of which its runs fail
	@bin/dodeka-db-accept.py "$$ENV"

.PHONY: restore
restore: ## put a snapshot (of FROM) in the place of ENV's database; WITHOUT=outbox: no rows of that table
	@bin/dodeka-db-restore.py "$$ENV" $${FROM:+--from "$$FROM"} $${SNAPSHOT:+--snapshot="$$SNAPSHOT"} $${AT:+--at="$$AT"} $${WITHOUT:+--without="$$WITHOUT"} $${CLONE:+--clone="$$CLONE"} $${ERASED:+--erased="$$ERASED"} $(OFFSITE_FLAG) $(YES_FLAG)

.PHONY: undo
undo: ## put back the database that the last restore of ENV replaced
	@bin/dodeka-db-undo.py "$$ENV" $${ERASED:+--erased="$$ERASED"} $(YES_FLAG)

.PHONY: history
history: ## who restored, undid, cloned, pinned, gave keys, and how it ended; ENV: of that one
	@bin/dodeka-db-history.py $${ENV:+"$$ENV"}

##@ what is kept

.PHONY: pin
pin: ## keep SNAPSHOT of ENV whatever the retention policy says; NOTE="why"
	@bin/dodeka-db-pin.py "$$ENV" $${NOTE:+--note="$$NOTE"} -- "$$SNAPSHOT"

.PHONY: unpin
unpin: ## let the retention policy decide about SNAPSHOT of ENV again
	@bin/dodeka-db-unpin.py "$$ENV" -- "$$SNAPSHOT"

.PHONY: retention
retention: ## what the next run keeps and removes of ENV's snapshots, and why; removes nothing
	@bin/dodeka-db-retention.py "$$ENV" $(OFFSITE_FLAG)

##@ setting up

.PHONY: try
try: setup ## see it work: a backup, an accident and a restore in sandbox/
	@bin/dodeka-db-try.py

.PHONY: setup
setup: packages venv ## install what the scripts need (.venv, restic, sqlite3)

.PHONY: packages
packages:
	@bin/install-packages.sh "$$PYTHON" restic sqlite3

.PHONY: venv
venv:
	@bin/install-venv.sh "$$PYTHON"

.PHONY: init
init: ## make the password file and the restic repository
	@bin/dodeka-db-init.py $(OFFSITE_FLAG) $(YES_FLAG)

.PHONY: install
install: ## as root: a user of their own for the backups, and all that they need; TIMERS=1: no crontab
	@bin/check-clone.sh
	@NO_SUDO=1 bin/install-packages.sh "$$PYTHON" restic sqlite3 sudo cron logrotate $(if $(filter 1,$(TIMERS)),polkitd)
	@umask 022; NO_SUDO=1 bin/install-venv.sh "$$PYTHON"
	@bin/dodeka-install.py $(if $(filter 1,$(TIMERS)),--timers)

.PHONY: uninstall
uninstall: ## remove what make install made; data stays
	@bin/check-clone.sh
	@bin/dodeka-install.py --uninstall

.PHONY: monitor
monitor: ## send a test to the monitor, DODEKA_MONITOR, for each job, and show what it answers
	@bin/dodeka-db-monitor.py

.PHONY: settings
settings: ## every setting: its value in force, and where it was set
	@bin/dodeka-db-settings.py

.PHONY: restic
restic: ## restic itself with these settings: ARGS='snapshots --tag env_demo'
	@bin/dodeka-db-restic.py $(OFFSITE_FLAG) -- "$$ARGS"

##@ people and keys

.PHONY: erased
erased: ## write down that the member WHO was erased: no older snapshot brings the member back
	@bin/dodeka-db-erased.py "$$ENV" --who="$$WHO" $(OFFSITE_FLAG) $(YES_FLAG)

.PHONY: keys
keys: ## list who can open the repository
	@bin/dodeka-db-keys.py $(OFFSITE_FLAG)

.PHONY: key-add
key-add: ## add a key for NAME, and prove it by a drill
	@bin/dodeka-db-key-add.py $(OFFSITE_FLAG) -- "$$NAME"

.PHONY: key-remove
key-remove: ## remove the key of NAME
	@bin/dodeka-db-key-remove.py $(OFFSITE_FLAG) -- "$$NAME"

.PHONY: recovery-sheet
recovery-sheet: ## the page to keep on paper: what is where, and how to restore it by hand
	@bin/dodeka-db-recovery-sheet.py $(if $(HTML),--html)

.PHONY: prove
prove: ## prove that the paper alone opens the off-site repository: asks for what is on it, and keeps nothing of that
	@bin/dodeka-db-prove.py

##@ developing

.PHONY: test
test: setup test-packages .venv/.tests ## run the tests (8 minutes); T=tests/sqlite/test_swap.py: all of one file
	@[ -n "$$T" ] || tests/pytest_and_bats.sh
	@[ -z "$$T" ] || .venv/bin/python -m pytest --full "$$T"

.PHONY: test-fast
test-fast: setup .venv/.tests ## the tests that need no repository, no server, no systemd (a minute)
	@.venv/bin/python -m pytest --numprocesses 4 --dist worksteal --fast

.PHONY: test-full
test-full: setup test-packages test-browser .venv/.tests ## all tests, the slow ones too (half an hour)
	@tests/pytest_and_bats.sh --full

.PHONY: coverage
coverage: setup test-packages .venv/.tests ## which lines of bin/ the tests run
	@.venv/bin/python -m coverage erase
	@.venv/bin/python -m coverage run -m pytest --numprocesses 7 --dist worksteal
	@.venv/bin/python -m coverage combine --quiet
	@.venv/bin/python -m coverage report

.PHONY: lint
lint: setup .venv/.tests ## ruff, mypy --strict, shellcheck, shfmt: 0 findings
	@tests/lint.sh

.PHONY: format
format: setup .venv/.tests ## format Python and shell as make lint wants them
	@tests/lint.sh --fix

.PHONY: pins
pins: setup .venv/.tests ## resolve requirements.txt and tests/requirements.txt again, together
	@tests/pins.sh

.PHONY: version
version: ## print the version: the newest release of CHANGELOG.md, and git's revision
	@sed -n 's/^## \([0-9][0-9.]*\) - .*/\1/p;T;q' CHANGELOG.md
	@git -c safe.directory='*' describe --always --dirty 2>/dev/null || :

.PHONY: test-in
test-in: ## run the tests in a fresh Debian: SUITE=bookworm or trixie, AS=root or user
	@tests/debian.sh "$$SUITE" $${AS:+"$$AS"}

.PHONY: soak
soak: setup test-packages .venv/.tests ## 300 cron runs with a writer, restores and kills (10 minutes)
	@PYTHONPATH=bin:tests/support .venv/bin/python tests/soak.py

.PHONY: bench
bench: setup test-packages .venv/.tests ## compare with the shell scripts: docs/bench.md (half an hour; BENCH_LARGE=1: 1 GB too, 2 hours)
	@PYTHONPATH=bin:tests/support .venv/bin/python tests/bench.py

.PHONY: fuzz
fuzz: setup test-packages .venv/.tests ## random settings, IDs, snapshots and JSON of restic, for a minute (FUZZ_EXAMPLES=200)
	@PYTHONPATH=bin:tests/support .venv/bin/python tests/fuzz.py

.PHONY: test-packages
test-packages:
	@bin/install-packages.sh "$$PYTHON" strace bats zstd sqlite3 openssl cron logrotate sudo systemd dbus util-linux procps \
		rclone openssh-server polkitd acl attr e2fsprogs exfat-fuse exfatprogs zsh bash-completion

# 300 MB, and Ubuntu has it as a snap alone: without it the tests that need it are skipped
.PHONY: test-browser
test-browser:
	-@bin/install-packages.sh "$$PYTHON" chromium

.venv/.tests: tests/requirements.txt | venv
	@.venv/bin/python -m pip install --quiet --only-binary :all: --require-hashes -r $<
	@touch $@
