# make demo and make test need no other step: each creates .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
NATIVE_SOURCES := $(shell find csrc -type f)
SANITIZED := $(addprefix tests/scm/test_,fuzz.py sampler.py draws.py mechanisms.py graphs.py arithmetic.py \
	standardisation.py observation.py counterfactual.py rows.py)
CPP_SOURCES := $(filter %.cpp %.h %.cu %.inc,$(NATIVE_SOURCES))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-clients lint format native-test sanitize coverage kernels-check browser pretrained bench gpu \
	docs test-docs tutorials clean

install: .venv/installed

.venv/installed: constraints.txt pyproject.toml setup.py CMakeLists.txt $(NATIVE_SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "settx_fast needs Python >= 3.11; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python examples/demo.py --out runs/demo

# One interpreter thread per worker: two workers on two cores, not four threads.
# The clients' packages are imported in a process of their own: some change settings of PyTorch for all.
test: install lint native-test browser build/clients
	$(BIN)/python -m benchmarks.kernels_check --covering
	OMP_NUM_THREADS=1 $(BIN)/pytest benchmarks/ --benchmark-only
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal --ignore tests/compat
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/compat

# The packages whose blocks settx_fast.compat knows, beside the environment and without what they depend on.
build/clients: constraints-clients.txt .venv/installed
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ --requirement constraints-clients.txt
	touch $@

test-clients: build/clients
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/compat

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CPP_SOURCES)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_SOURCES)

native-test: install
	$(BIN)/cmake -S . -B build/native-test -DSETTX_TESTS=ON \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build build/native-test --parallel 2
	$(BIN)/ctest --test-dir build/native-test --output-on-failure

# GCC. The interpreter itself is not instrumented, so the sanitizer's runtime is loaded before it; its leaks are not ours.
sanitize: install
	$(BIN)/cmake -S . -B build/sanitize -DSETTX_SANITIZE=ON -DSETTX_CUDA=OFF \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build build/sanitize --parallel 2
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 \
		$(BIN)/pytest --capture no $(SANITIZED) --native $$(ls build/sanitize/_native*.so) --hypothesis-profile thorough

# Places to look, not a mark: branches that no test takes, in build/coverage/native and build/coverage/python. GCC.
coverage: install
	$(BIN)/cmake -S . -B build/coverage -DSETTX_COVERAGE=ON -DSETTX_CUDA=OFF -DSETTX_VECTOR_PATHS=OFF -DSETTX_TESTS=ON \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build build/coverage --parallel 2
	find build/coverage -name '*.gcda' -delete
	$(BIN)/ctest --test-dir build/coverage --output-on-failure
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SANITIZED) --native $$(ls build/coverage/_native*.so)
	mkdir -p build/coverage/native
	$(BIN)/gcovr --filter csrc/scm/ --exclude-throw-branches --gcov-ignore-parse-errors=suspicious_hits.warn \
		--txt-metric branch --txt --sort uncovered-percent --html-details build/coverage/native/index.html build/coverage
	COVERAGE_FILE=build/coverage/data OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal \
		--cov=settx_fast --cov-branch --cov-report=term:skip-covered --cov-report=html:build/coverage/python

# With the installed Triton and with the oldest that the kernels know, which needs more shared memory here and there.
kernels-check: install build/triton-3.6
	$(BIN)/python -m benchmarks.kernels_check
	PYTHONPATH=build/triton-3.6:. $(BIN)/python -m benchmarks.kernels_check --out build/triton-3.6.csv

build/triton-3.6: install
	$(BIN)/pip install --quiet --no-deps --target $@ triton==3.6.0

# The models that travel with the package: the framework selector and the property predictor. Resumable: what
# build/pretrained and build/properties hold is not done again. SCALE: of the number of examples; MEMBERS: networks that
# answer together; SEED, EPOCHS, WORKERS. The values here are those of the models that are there.
SCALE ?= 8
SEED ?= 0
EPOCHS ?= 10
MEMBERS ?= 4
WORKERS ?= $(shell nproc)
pretrained: install build/properties/model.safetensors
	OMP_NUM_THREADS=1 $(BIN)/python -m settx_fast.predictor.selector.pretraining \
		--scale $(SCALE) --seed $(SEED) --epochs $(EPOCHS) --members $(MEMBERS) --workers $(WORKERS)
	$(BIN)/settx-fast evaluate build/properties --num-datasets 2000
	mkdir -p settx_fast/predictor/pretrained/properties
	cd build/properties && cp config.json model.safetensors evaluation.json ../../settx_fast/predictor/pretrained/properties

build/properties/model.safetensors: | install
	$(BIN)/settx-fast train recurring_linear --out build/properties $(if $(wildcard build/properties/checkpoints/*.ckpt),--resume)

# On a quiet machine: every number of README.md and docs/performance.md, then the pages and figures that show them.
# PACKAGES=python of an environment with benchmarks/scm_packages.txt; QUICK=1 for minutes.
bench: install
	$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick) $(if $(PACKAGES),--packages $(PACKAGES))
	$(BIN)/python -m benchmarks.plot

# The site, in build/site: offline, and it fails on a broken link or an undocumented public name.
docs: install
	PYTHONPATH=docs $(BIN)/python -m builder
	$(BIN)/zensical build --clean --strict

# Tutorials in small settings, blocks of code, the public surface, the site: at most four minutes on two cores.
test-docs: install build/clients
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal tests/docs

# Execute the tutorials at full size and write their outputs.
tutorials: install build/clients
	PYTHONPATH=docs $(BIN)/python -m builder.tutorials

# In the environment at hand, which may be bare and offline: no .venv. What build/gpu-run holds is not done again.
gpu:
	$(PYTHON) -m benchmarks.gpu $(if $(DRY_RUN),--dry-run)

# The report is looked at in a real browser.
browser:
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
		|| { echo "installing chromium for the report's test"; \
		     SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); $$SUDO apt-get update -q > /dev/null && $$SUDO apt-get install -qy chromium > /dev/null; } \
		|| echo "no chromium: the report's browser test will be skipped"

clean:
	rm -rf .venv build dist *.egg-info settx_fast/_native*.so
