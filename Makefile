# make serve     set up what is missing, then serve the default model on 127.0.0.1:8000
# make install   set up alone; leaves .venv/bin/corral, and what the programs in tools/ need
# make loadtest  put load on the server on 127.0.0.1:8000: make loadtest ARGS="--scenario abort"; BIND names another
# make test      set up, then the tests; also: make test PYTHON=python3.13 VENV=.venv313
# make npm       the clients and axe-core from npm that some tests run; without them these are skipped, and say so
# make check     set up, then the static checks
# make clean     remove the environments and everything built

VENV ?= .venv
BIND ?= 127.0.0.1:8000
ARGS ?=

# The first Python that runs and is new enough; else python3, which then says what is wrong with it.
FIND_PYTHON = for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done
ifndef PYTHON
PYTHON := $(or $(shell $(FIND_PYTHON)),python3)
endif

INSTALL = @command -v $(PYTHON) >/dev/null || { echo "corral: no $(PYTHON) here; corral needs Python 3.11 or newer" >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "corral: $$($(PYTHON) --version) is too old; name one from 3.11 on: make PYTHON=python3.11" >&2; exit 1; }; \
	$(PYTHON) tools/install.py $(VENV)

# Not asked for: that every path has a checkpoint (9xx) and every async function an await (124), which a framework's
# handlers need not; that every startable function is in the list (114); 110, of which ruff has the useful half.
# Files with none of these have nothing that it could find: two of three, and it takes a second for five files.
ASYNC_WORDS = 'async|await|trio|BaseException|except:'
FLAKE8_ASYNC = --startable-in-context-manager=_keep_time --disable=ASYNC9,ASYNC110,ASYNC114,ASYNC124

.PHONY: install serve loadtest test npm check clean

install:
	$(INSTALL)
	@echo "corral: ready: $(VENV)/bin/corral --help"

serve:
	$(INSTALL)
	@exec $(VENV)/bin/corral serve --bind $(BIND) $(ARGS)

loadtest:
	$(INSTALL)
	@$(VENV)/bin/corral loadtest --base-url http://$(BIND)/v1 $(ARGS)

test:
	$(INSTALL) test
	@$(VENV)/bin/python -m pytest $(ARGS)

npm:
	npm install --prefix tests/sdk/npm --no-package-lock --no-audit --no-fund

check:
	$(INSTALL) test lint
	$(VENV)/bin/ruff check src tests tools
	$(VENV)/bin/ruff format --check src tests tools
	grep -rlZE --include='*.py' $(ASYNC_WORDS) src tests tools | xargs -0 -n 100 -P 2 $(VENV)/bin/flake8-async $(FLAKE8_ASYNC)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf .venv .venv3* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache tests/sdk/npm/node_modules
