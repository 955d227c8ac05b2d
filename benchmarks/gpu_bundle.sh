#!/bin/sh
# Collect what benchmarks/gpu.py needs on a machine without a network, as wheels in one folder:
#
#     sh benchmarks/gpu_bundle.sh [FOLDER] [PYTHON_VERSION] [PIP...]
#
# FOLDER (default: .bundle) gets wheels for Linux on x86-64 and that Python (default: 3.12). Packages that a machine with
# PyTorch, transformers, peft and accelerate already has are left out: put them at the end of `packages` if yours lacks
# them. On the machine:
#
#     python3 -m pip install --no-index --no-deps --target /tmp/site FOLDER/*.whl
#     PYTHONPATH=/tmp/site:src python3 benchmarks/gpu.py --out gpu.json
set -eu

folder=${1:-.bundle}
python=${2:-3.12}
cd "$(dirname "$0")/.."

# TRL and what it needs; the rest is for lifealign itself. Versions are those of constraints.txt, where it has one.
packages="trl datasets dill multiprocess pydantic pydantic-core annotated-types typing-inspection typing-extensions
filelock datasketch httpx liger-kernel"
trl=1.16.0

mkdir -p "$folder"
rm -f "$folder"/*.whl
for name in $packages; do
  pin=$(grep -i "^$name==" constraints.txt || true)
  test "$name" = trl && pin="trl==$trl"
  ${PIP:-python3 -m pip} download -q --disable-pip-version-check --no-deps --only-binary=:all: \
    --implementation cp --python-version "$python" --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
    -d "$folder" "${pin:-$name}"
done
du -ch "$folder"/*.whl
