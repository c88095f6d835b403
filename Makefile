# make serve     set up what is missing, then serve the default model on 127.0.0.1:8000
# make install   set up alone; leaves .venv/bin/corral
# make test      set up, then the tests; also: make test PYTHON=python3.13 VENV=.venv313
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

.PHONY: install serve test check clean

install:
	$(INSTALL)
	@echo "corral: ready: $(VENV)/bin/corral --help"

serve:
	$(INSTALL)
	@echo "corral: OpenAI-compatible API at http://$(BIND)/v1; once it is up, try:"
	@echo "  curl -N http://$(BIND)/v1/chat/completions -H 'Content-Type: application/json' \\"
	@echo "    -d '{\"model\": \"SmolLM2-135M-Instruct\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'"
	@exec $(VENV)/bin/corral serve --bind $(BIND) $(ARGS)

test:
	$(INSTALL) test
	@$(VENV)/bin/python -m pytest $(ARGS)

check:
	$(INSTALL) test lint
	$(VENV)/bin/ruff check src tests tools
	$(VENV)/bin/ruff format --check src tests tools
	$(VENV)/bin/flake8-async src tests tools
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf .venv .venv3* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
