# Qingtu 青图. `make help` lists everything. Needs make, a POSIX shell and Python 3.11 or newer; no root, no Docker.

VENV := .venv/bin
# The first Python that is new enough and can make an environment. One with a wrong version or without ensurepip
# (Debian: python3-venv) is passed over. The system's own comes first: it was built with optimisations, which a
# tool that builds Python from source leaves out by default; Qingtu takes a tenth less CPU with it. PYTHON=… chooses.
SYSTEM := /usr/bin
NAMES := python3.13 python3.12 python3.11 python3
PYTHON := $(addprefix $(SYSTEM)/,$(NAMES)) $(NAMES)
FIND_PYTHON = for p in $(PYTHON); do \
	"$$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; p=; done; \
	if [ -z "$$p" ]; then echo '需要 Python 3.11 或更新版本及其 venv 模块 / Python 3.11 or newer with its venv module is needed: install it (Debian: apt install python3 python3-venv)' >&2; exit 1; fi
ENVIRONMENT = @$(FIND_PYTHON); "$$p" deploy/environment.py
FETCH = $(VENV)/python -m deploy.native fetch --no-build || echo '缺少的将跳过 / tests of what is missing skip' >&2
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test cover check services services-test histories histories-mutants bench environment dev-environment clean

help: ## this list / 本列表
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: environment ## the whole system with a simulated city; FOR=60s: headless, prints the ledger / 演示
	@exec $(VENV)/qingtu demo $(if $(FOR),--for $(FOR) --json) $(ARGS)

test: dev-environment ## the whole default test suite / 测试
	@exec $(VENV)/python -m pytest -m "not services" -n $(WORKERS) --dist loadfile $(ARGS)

cover: dev-environment ## both suites with branch coverage, at least 90 % / 覆盖率
	@rm -f .coverage .coverage.*
	@$(VENV)/python -m pytest -m "not services" --cov --cov-report= -n $(WORKERS) --dist loadfile $(ARGS)
	@$(FETCH)
	@$(VENV)/python -m pytest -m services --cov --cov-append --cov-report= -n $(WORKERS) --dist loadfile -r sfE $(ARGS)
	@exec $(VENV)/python -m coverage report --skip-covered --fail-under 90

services: environment ## real Kafka, InfluxDB and mosquitto without Docker, until Ctrl-C / 启动真实服务器
	@exec $(VENV)/python -m deploy.native up $(ARGS)

services-test: dev-environment ## the tests on real servers; what cannot be had is skipped / 真实服务器测试
	@$(FETCH)
	@exec $(VENV)/python -m pytest -m services -n $(WORKERS) --dist loadfile -r sfE $(ARGS)

check: dev-environment ## ruff (all rules), format, mypy strict / 静态检查
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/mypy

histories: dev-environment ## simulated histories with faults, SEEDS=2000 / 模拟故障历史
	@exec $(VENV)/python -m tests.histories --seeds $(or $(SEEDS),2000) --jobs $(WORKERS) $(ARGS)

histories-mutants: dev-environment ## do histories find planted bugs? / 植入缺陷检验
	@exec $(VENV)/python -m tests.histories --mutants --jobs $(WORKERS) $(ARGS)

bench: dev-environment ## microseconds of CPU a message; PEER=telegraf: beside another program / 性能
	@exec $(VENV)/python -m bench $(if $(PEER),--peer $(PEER)) $(ARGS)

clean: ## remove the environment and what tools left / 清除
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

environment:
	$(ENVIRONMENT) requirements.lock

dev-environment:
	$(ENVIRONMENT) requirements-dev.lock
