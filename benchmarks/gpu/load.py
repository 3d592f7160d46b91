"""Load a bundle's compiled packages in new processes that differ in what was done before; where one crashes, its stack.

    python benchmarks/gpu/load.py BUNDLE

On the H200 machine of the first measurements, packages that the exporting process ran correctly crashed processes that
loaded them later. The differences between those processes are tried here one by one. Where one crashes, `stack.c`,
which is preloaded into it, says where.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_LOADER = "torch._C._aoti.AOTIModelPackageLoader(sys.argv[1], 'model', True, 1, 0)"
#: Name -> the lines before the loader.
VARIANTS = {
    "torch alone": "",
    "TF32 switched off": "from jboost.engine.backends.torch_device import set_tf32; set_tf32(False)",
    "all that the engine imports": "import jboost.engine.backends.compiled.runner",
    "after a tensor on the GPU": "torch.rand(3, device='cuda').sum().item()",
    "after a convolution on the CPU": "torch.nn.functional.conv2d(torch.rand(8, 16, 32, 32), torch.rand(16, 16, 3, 3))",
    "with AMX requested": "torch.cpu._init_amx()",
    "with Inductor": "import torch._inductor.codecache",
    "with ONNX Runtime": "import onnxruntime",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    args = parser.parse_args()
    entries = json.loads((args.bundle / "config.json").read_text())["artefacts"]
    # The steps are small and have no weights; the gradient has them.
    names = sorted((name for name in entries if name.startswith("compile/cuda/")), key=lambda name: "step" not in name)
    crashed = False
    with TemporaryDirectory() as folder:
        preloaded = Path(folder) / "stack.so"
        source = Path(__file__).with_name("stack.c")
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", preloaded, source, "-ldl"], check=True)
        env = os.environ | {"LD_PRELOAD": str(preloaded)}
        for name in {names[0], names[-1]} if names else ():
            package = str(args.bundle / entries[name]["file"])
            print(name)
            for variant, before in VARIANTS.items():
                code = f"import sys, torch\n{before}\n{_LOADER}"
                done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, env=env)
                lines = done.stderr.strip().splitlines()
                print(
                    f"  {variant:32s} exit code {done.returncode}",
                    *(lines[-1:] if done.returncode > 0 else []),
                    flush=True,
                )
                if done.returncode < 0:
                    crashed = True
                    print(*(f"    {line}" for line in lines), sep="\n", flush=True)
    return 1 if crashed or not names else 0


if __name__ == "__main__":
    sys.exit(main())
