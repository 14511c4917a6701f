# One command each; every one runs in the environment that is active.
.PHONY: check test golden slow bench gpu tune schema

check:            ## style, types and structure
	ruff check .
	ruff format --check .
	pyright

test:             ## the default suite, as CI runs it
	pytest

golden:           ## every architecture against its reference
	pytest tests/golden

slow:             ## everything, the long forms too; then with fusion off and with kernels off (which tests of the compiler are about), with machine code off
	pytest --slow
	LLMC_PASSES=0 pytest tests/golden tests/runtime
	LLMC_KERNELS=0 pytest tests/golden tests/runtime
	LLMC_NATIVE=0 pytest tests/golden tests/runtime tests/compiler

bench:            ## start-up, kernels, whole models and other engines, for BENCHMARKS.md; LLAMA_PYTHON= and ONNXRUNTIME_PYTHON= their interpreters
	python -P tools/bench/startup.py
	python -P -m llmc.tools.bench.kernels
	python -P -m llmc.tools.bench.quantisation
	llmc bench small --format markdown
	llmc bench small --format markdown --quantize int8
	llmc bench gpt2_small --format markdown --against hf
	python -P -m llmc.tools.bench.peers $(if $(LLAMA_PYTHON),--llama-python $(LLAMA_PYTHON)) $(if $(ONNXRUNTIME_PYTHON),--onnxruntime-python $(ONNXRUNTIME_PYTHON))

gpu:              ## on a machine with a GPU (not yet run on one; 8 minutes are the aim): kernels, verdicts and architectures on the chip, then the table
	TRITON_INTERPRET=0 pytest --numprocesses=8 tests/gpu tests/golden/test_gpu_programs.py tests/runtime/test_gpu_executor.py $(wildcard tests/kernels/test_*_triton.py)
	TRITON_INTERPRET=0 python -P -m llmc.tools.bench.gpu $(if $(OUT),--json $(OUT)/gpu.json)

tune:             ## on a machine with a GPU: launch parameters of this GPU, into the user's cache
	TRITON_INTERPRET=0 python -P -m llmc.tools.bench.tune

schema:           ## write what is generated: the JSON Schema, and the op pages of specs/README.md
	llmc schema -o specs/schema.json
	python -P -m llmc.tools.language_page
