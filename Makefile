# Two commands on a fresh machine: `make conformance` and `make test`. Everything else is for developers.
PYTHON ?= python3
IMPL ?= reference
PROFILE ?= default
VENV := .venv
UV := .tools/bin/uv
# What a module sets up is set up once.
TESTS = $(RUN) pytest tests -n auto --dist loadfile --no-loadscope-reorder
RUN := OMP_NUM_THREADS=1 $(VENV)/bin/python -m
EXTRAS_reference := dev
EXTRAS_vllm := dev,vllm
EXTRAS_sglang := dev,sglang
EXTRAS_peft := dev
EXTRAS := $(or $(EXTRAS_$(IMPL)),dev)

# Images of Python set it, and then every process compiles torch again, which takes seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: conformance test framework thorough check matrix power bench clean

conformance: $(VENV)/.installed-$(EXTRAS)  ## set up, then run the suite on IMPL (reference, peft, or vllm or sglang, which it installs)
	$(RUN) pytest conformance/ -n auto --impl $(IMPL) --profile $(PROFILE) $(ARGS)

test: $(VENV)/.installed-dev  ## set up, then type checks, lint and the tests of the framework
	+$(MAKE) -j2 check framework  # side by side: mypy takes one core, the tests wait for processes now and then

framework: $(VENV)/.installed-dev
	$(TESTS) $(ARGS)

thorough: $(VENV)/.installed-dev  ## those tests of the framework that a default run takes a few of
	$(TESTS) -m 'thorough and not vllm and not sglang' $(ARGS)

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/mypy

matrix: $(UV)  ## clause × release of vLLM, PEFT and SGLang, into docs/results/matrix.md
	$(PYTHON) benchmarks/matrix.py --uv $(UV)

bench: $(VENV)/.installed-dev  ## where the time of a case goes
	$(RUN) benchmarks.cases

power: $(VENV)/.installed-dev  ## what the suite catches, and how fast, into docs/results/power.md
	$(RUN) benchmarks.power

$(UV):
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/bin/python: $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt overrides.txt | $(VENV)/bin/python
	$(UV) pip install --quiet --python $(VENV)/bin/python -c constraints.txt --overrides overrides.txt -e '.[$*]'
	touch '$@'

clean:
	rm -rf $(VENV) .tools .matrix .lora_compat .hypothesis
