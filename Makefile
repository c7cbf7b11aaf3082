# SPDX-License-Identifier: Apache-2.0
# Everything that is built lies in build/ and .venv/.
VENV    ?= .venv
PY      := $(VENV)/bin/python
BIN     := $(VENV)/bin
JOBS    ?= $(shell nproc)
FUZZ_S  ?= 5
CAPTURE := tests/captures/office.pcap

C_FILES  = $(shell find native stack_modules nfs tests bench examples \( -name '*.c' -o -name '*.h' \))
BUILD_IN = pyproject.toml native/CMakeLists.txt native/plugins/plugins.cmake $(wildcard nfs/native.cmake) \
           $(shell find native/include native/src native/plugins stack_modules nfs -name '*.[ch]')
STAMP   := $(VENV)/.nfmesh-installed
CMAKE    = cmake -G Ninja -S native
TSAN_TESTS := test_ring test_handoff test_log_threads test_handover_threads test_port_tee test_answers

.PHONY: all setup run check check-format check-python check-c format test pytest ctest tsan model fuzz-short fuzz bench instructions kube image kube-test live-demo docs clean
all: setup

setup: $(STAMP)
$(STAMP): $(BUILD_IN)
	VENV=$(VENV) tools/setup.sh

run: setup ## the main job: three NFs over a capture of this project
	@$(BIN)/nfmesh run --pcap $(CAPTURE) --nf http_log --nf dns_log --nf syn_scan

# ---- check --------------------------------------------------------------------------------------
check: check-format check-python check-c

check-format: setup
	@echo "clang-format-14: $(words $(C_FILES)) files"
	@clang-format-14 --dry-run --Werror $(C_FILES)
	$(BIN)/ruff format --check .

check-python: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-c: setup
	$(PY) tools/check_layers.py
	$(PY) tools/check_headers.py
	$(PY) tools/check_length.py
	$(PY) tools/check_globals.py build/python

format: setup
	clang-format-14 -i $(C_FILES)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# ---- test ---------------------------------------------------------------------------------------
test: ctest fuzz-short pytest

pytest: setup ## JOBS test files at a time
	$(BIN)/pytest -q -n $(JOBS) --dist loadfile

build/test/build.ninja:
	$(CMAKE) -B build/test -DNFM_TESTS=ON -DNFM_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug
ctest: setup build/test/build.ninja tsan model
	cmake --build build/test -j $(JOBS)
	ctest --test-dir build/test --output-on-failure -j $(JOBS)

build/tsan/build.ninja:
	$(CMAKE) -B build/tsan -DNFM_TESTS=ON -DNFM_SANITIZE=thread -DCMAKE_BUILD_TYPE=RelWithDebInfo
tsan: setup build/tsan/build.ninja ## what processes share, under the thread sanitizer
	cmake --build build/tsan -j $(JOBS) --target $(TSAN_TESTS)
	for test in $(filter-out test_answers,$(TSAN_TESTS)); do build/tsan/$$test || exit 1; done
	build/tsan/test_answers threads # the rest of it is one thread's, and long

model: ## the ring's protocol under a model checker (Debian package: spin)
	tools/model.sh

build/fuzz/build.ninja:
	CC=clang $(CMAKE) -B build/fuzz -DNFM_FUZZ=ON -DNFM_SANITIZE=address,undefined \
	    -DCMAKE_BUILD_TYPE=RelWithDebInfo
fuzz-short: setup build/fuzz/build.ninja
	cmake --build build/fuzz -j $(JOBS)
	$(PY) tools/fuzz.py --seconds $(FUZZ_S) --jobs $(JOBS) build/fuzz

fuzz: FUZZ_S = 300
fuzz: fuzz-short

# ---- the rest -----------------------------------------------------------------------------------
bench: setup ## every row of the table of figures, beside the other stacks installed here
	$(BIN)/nfmesh bench all

instructions: setup ## instructions per packet against bench/instructions.json
	$(PY) -m bench.instructions

kube: ## Helm, kubectl and a Kubernetes of Debian's source for tests, into /var/cache/nfmesh-kube
	tools/kube/helm.sh
	tools/kube/build.sh

live-demo: setup ## as root: two hosts, firewall, ids and nat between them, a page, an attack
	@VENV=$(VENV) tools/live_demo.sh

docs: setup ## the event catalogue and the parts, as text
	@mkdir -p build/docs
	$(BIN)/nfmesh events > build/docs/events.txt
	$(BIN)/nfmesh modules > build/docs/modules.txt
	$(BIN)/nfmesh nfs > build/docs/nfs.txt

image: ## the image as an OCI archive in the cache folder
	tools/kube/image.py archive

kube-test: setup ## chart, operator, image, real API server; as root a node. Says what is missing for a stage
	tools/kube/helm.sh || echo "SKIPPED: no Helm" >&2
	tools/kube/image.py archive || echo "SKIPPED: no image" >&2
	NFMESH_KUBE_NODE=1 $(BIN)/pytest -q -s tests/test_chart*.py tests/test_kube_*.py tests/test_runtimes.py tests/test_image*.py

clean:
	rm -rf build
