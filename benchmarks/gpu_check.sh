#!/usr/bin/env bash
# Everything there is to know of jboost on a CUDA machine, in under eight minutes: install, GPU tests, times of every engine.
#
#   benchmarks/gpu_check.sh [OUT]        default OUT: out/gpu
#
# Needs no network: torch with CUDA, triton, cuda-python, nvcc and what else pyproject.toml lists are taken as they are found. Packages
# brought along (pycuda, onnxruntime-gpu, array-api-compat, ...) go into a folder that PYTHONPATH names. Each part runs in a process and a
# time limit of its own, so that one that fails hides nothing. Results: OUT/results.json, OUT/results.md, OUT/<part>.log.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/gpu}
mkdir -p "$out"
python=${PYTHON:-python3}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/$out/inductor} JBOOST_CACHE=${JBOOST_CACHE:-$PWD/$out/cache}
if ! "$python" -m pip install --quiet --no-deps --no-index --no-build-isolation --editable . >"$out/install.log" 2>&1; then
  # A build backend too old for this pyproject.toml: the packages as they would be installed, and the command beside them.
  site=$PWD/$out/site
  rm -rf "$site"
  mkdir -p "$site/bin"
  cp -r jboost "$site/"
  cp -r engine trainer export "$site/jboost/"
  printf '#!/usr/bin/env bash\nexec %q -c "from jboost.cli.main import main; main()" "$@"\n' "$(command -v "$python")" >"$site/bin/jboost"
  chmod +x "$site/bin/jboost"
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PATH=$site/bin:$PATH
fi
exec "$python" benchmarks/gpu/check.py --out "$out"
