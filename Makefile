# make demo   set up .venv, then data -> policies -> measurement -> serving, end to end
# make test   set up .venv, then lint, types and every test
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint setup dashboard clean
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY): pyproject.toml constraints.txt scripts/setup.py
	$(PYTHON) scripts/setup.py
	@touch $@

# DATA=pairs.jsonl MODEL=directory-or-hub-name [PRIMARY=helpfulness] [PROMPTS=prompts.jsonl] [JUDGES=judges.yaml] [OUT=runs/mine]
demo: $(READY)
	@$(BIN)/python scripts/demo.py $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") \
		$(if $(PRIMARY),--primary "$(PRIMARY)") \
		$(if $(PROMPTS),--prompts "$(PROMPTS)") $(if $(JUDGES),--judges "$(JUDGES)") $(if $(OUT),--out "$(OUT)")

dashboard: $(READY)
	$(BIN)/mopo-dashboard $(or $(OUT),runs/demo)/family --gateway http://127.0.0.1:8000 --audit $(or $(OUT),runs/demo)/audit.db

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A worker a core, one thread each: two busy torch processes that share two cores are ten times slower.
test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache
