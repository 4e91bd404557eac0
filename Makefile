# `make up` deploys on this machine; `make test` runs every tier. Both install what is missing.
.DEFAULT_GOAL := help
PYTHON ?= python3
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' locks/everything.txt)
BIN := .venv/bin
# The CLI and its plugins first, then the virtual environment, then the machine's own tools.
export PATH := $(CURDIR)/.local/bin:$(CURDIR)/.venv/bin:$(PATH)
# Containers often set it: every run of Pulumi would compile its AWS package anew, five seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help up down test check bench docs install lock newer
help:
	@echo "make up      deploy onto the embedded AWS, wake it from zero, get an image"
	@echo "make down    destroy that stack and stop what was started"
	@echo "make test    all tests, tier by tier"
	@echo "make check   format, lint, types, architecture, unit tests: under a minute"
	@echo "make bench   speed, as ratios in one run"
	@echo "make docs    the documentation as a site, in .local/site"

up: install
	@async-inference local up

down: .venv/.base
	@async-inference local down

test: install
	@bash tests/tiers

check: .venv/.base
	@ruff format --check .
	@ruff check .
	@ty check
	@lint-imports --no-logo
	@proselint check --config docs/proselint.json -o compact README.md CHANGELOG.md docs/*.md docs/decisions/*.md
	@sphinx-build -qnW --keep-going docs .local/site
	@pytest -q -n 2 --dist worksteal -m "not (rehearsal or local_aws or clients or audit or engine or serving or faults)"

bench: install
	@python -m bench

docs: .venv/.base
	@python tools/configuration_reference.py
	@python -m tools.command_reference
	@python -m tools.parity_table
	@python -m tools.pictures
	@sphinx-build -qnW --keep-going docs .local/site
	@echo "The documentation: .local/site/index.html"

# Everything the local stack needs: the locked packages, the Pulumi CLI, what inference_code imports.
install: .venv/.base
	@python tools/install.py

.venv/.base: locks/everything.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or later is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing the locked Python packages (about 0.4 GB) into .venv ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "error: $(PYTHON) has no venv module; install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r locks/everything.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# After a change of pyproject.toml or a handler's requirements.txt: pin everything by hash again;
# with UPGRADE=--upgrade at the newest versions that those allow.
PIN := uv pip compile --no-python-downloads --generate-hashes --no-emit-index-url -q --custom-compile-command "make lock" $(UPGRADE)
lock: .venv/.base
	$(PIN) --universal pyproject.toml --extra all --group dev -o locks/everything.txt
	$(PIN) --universal pyproject.toml --extra program -c locks/everything.txt -o requirements.txt
	$(PIN) --universal pyproject.toml --extra program --extra commands -c locks/everything.txt -o locks/commands.txt
	mkdir -p .local
	grep -E '^(torch|ray|transformers|tokenizers|huggingface-hub|safetensors|starlette)==' \
		components/images/ray.txt > .local/image.txt
	printf "%s\n" torch "ray[serve]" jinja2 torchserve==0.12.0 sagemaker-pytorch-inference==2.0.25 "setuptools<81" | \
		$(PIN) --universal inference_code/requirements.txt examples/digits/requirements.txt - \
		-c locks/everything.txt -c .local/image.txt -o locks/serving.txt
	# Twice: all together must fit the image, and only what it lacks is packed.
	for handler in inference_code examples/digits; do \
		for image in ray:3.13:--python-platform=x86_64-manylinux_2_28 pytorch-inference:3.12:--universal; do \
			name=$${image%%:*}; rest=$${image#*:}; list=components/images/$$name.txt; \
			fitting="$$handler/requirements.txt --python-version $${rest%%:*} $${rest#*:}"; \
			sed -nE 's/^([a-z][^=]*).*/\1/p' $$list > .local/brought.txt; \
			uv pip compile --no-python-downloads -q $$fitting -c $$list -o .local/fits.txt && \
			$(PIN) $$fitting -c .local/fits.txt --excludes .local/brought.txt \
				-o $$handler/requirements.$$name.lock || exit 1; done; done
	$(PIN) --universal --group clients -o locks/clients.txt
	$(PIN) --universal --group audit -o locks/audit.txt

# What is newer than what is pinned; changes nothing.
newer: .venv/.base
	@python -m tools.newer
