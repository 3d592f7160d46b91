#!/usr/bin/env bash
# Everything there is to know of jboost on a CUDA machine, in under eight minutes: install, GPU tests, times of every engine.
#
#   benchmarks/gpu_check.sh [OUT [PART...]]        default OUT: out/gpu; PART: one or more of the parts alone, see gpu/check.py
#
# Needs no network: torch with CUDA, triton, cuda-python, nvcc and what else pyproject.toml lists are taken as they are found. Packages
# brought along (pycuda, onnxruntime-gpu, array-api-compat, ...) go into a folder that PYTHONPATH names. Each part runs in a process and a
# time limit of its own, so that one that fails hides nothing. Results: OUT/results.json, OUT/results.md, OUT/<part>.log.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:-out/gpu}"
out=$(realpath "${1:-out/gpu}")
python=${PYTHON:-python3}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$out/inductor} JBOOST_CACHE=${JBOOST_CACHE:-$out/cache}
export PYTHONUNBUFFERED=1
export TORCHINDUCTOR_MAX_AUTOTUNE_REPORT_CHOICES_STATS=1 # which kernels won, in the logs of the exports
# Packages are compiled with CUDA's headers, which torch looks for beside nvcc; but nvcc may be a link or a script that calls another.
if [ -z "${CUDA_HOME:-}" ]; then
  nvcc=$(command -v nvcc || true)
  for folder in "$(dirname "$(dirname "$(readlink -f "${nvcc:-/}")")")" /usr/local/cuda /usr/local/cuda-* /opt/cuda; do
    if [ -e "$folder/include/cuda.h" ]; then export CUDA_HOME=$folder; break; fi
  done
fi
if ! "$python" -m pip install --quiet --no-deps --no-index --no-build-isolation --editable . >"$out/install.log" 2>&1; then
  # A build backend too old for this pyproject.toml: the packages as they would be installed, and the command beside them.
  site=$out/site
  rm -rf "$site"
  mkdir -p "$site/bin"
  cp -r jboost "$site/"
  cp -r engine trainer export "$site/jboost/"
  printf '#!/usr/bin/env bash\nexec %q -c "from jboost.cli.main import main; main()" "$@"\n' "$(command -v "$python")" >"$site/bin/jboost"
  chmod +x "$site/bin/jboost"
  mkdir -p "$site/jboost-0.1.0.dist-info"
  printf 'Metadata-Version: 2.1\nName: jboost\nVersion: 0.1.0\n' >"$site/jboost-0.1.0.dist-info/METADATA"
  # Not from the checkout, where the packages are not in their places.
  export PYTHONSAFEPATH=1 PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PATH=$site/bin:$PATH
fi
exec "$python" benchmarks/gpu/check.py --out "$out" "${@:2}"
