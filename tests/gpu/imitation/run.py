"""A command on an imitated GPU: torch, Triton, ONNX Runtime and pycuda run as they would on an H200, and compute nothing.

    python tests/gpu/imitation/run.py [--log FILE] COMMAND...
    cd tests/gpu/imitation; python run.py python command.py bench --bundle bundle --device cuda

Imitates libcuda, libcudart, cuBLAS, cuDNN and cuRAND. What it finds: calls in a wrong order, with wrong devices, or that a capture
forbids; nodes that a provider does not take; code that nothing but a GPU would have run. What it cannot find: wrong numbers, and
anything of speed. The log has a line for each call that would reach the device; at the end stands how many there were of each kind.

Needs gcc, CUDA's headers and packages built for CUDA 13 (`pip install torch onnxruntime-gpu`), and no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
#: What each library is made of: what is written here, the header that names the rest of its functions.
_LIBRARIES: dict[str, tuple[str | None, str | None]] = {
    "libcuda.so.1": ("driver.c", "cuda.h"),
    "libcudart.so.13": ("runtime.c", "cuda_runtime_api.h"),
    "libcublasLt.so.13": ("cublaslt.c", None),
    "libcublas.so.13": ("cublas.c", None),
    "libcudnn.so.9": ("cudnn.c", None),
    "libcurand.so.10": (None, None),
}
#: Declarations, and the names that macros turn these into.
_DECLARED = re.compile(r"(?:CUDAAPI|CUDARTAPI) (cu\w+)\(|\b(cu[A-Z]\w+_v\d)\b")
_DEFINED = re.compile(r"^\w[\w *]*?(\w+)\(", re.MULTILINE)


def headers() -> Path:
    """The folder of CUDA's headers: the toolkit's, else NVIDIA's package's."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include")]
    nvidia = importlib.util.find_spec("nvidia")
    folders += [] if nvidia is None else [Path(p, "cu13", "include") for p in nvidia.submodule_search_locations or ()]
    for folder in folders:
        if (folder / "crt" / "host_defines.h").exists():
            return folder
    raise SystemExit(
        "CUDA's headers were not found; set CUDA_HOME, or: pip install nvidia-cuda-runtime nvidia-cuda-crt"
    )


def users() -> list[Path]:
    """The libraries of torch, ONNX Runtime and pycuda that call CUDA's."""
    found: list[Path] = []
    of_torch = [("torch", "lib/lib*cuda*.so"), ("torch", "lib/libtorch_python.so")]
    for package, pattern in (*of_torch, ("onnxruntime", "capi/*_cuda.so"), ("pycuda", "_driver*.so")):
        spec = importlib.util.find_spec(package)
        for folder in [] if spec is None else spec.submodule_search_locations or ():
            found += Path(folder).glob(pattern)
    return found


def wanted() -> dict[str, set[str]]:
    """The functions that somebody calls, by library."""
    names: dict[str, set[str]] = {library: set() for library in _LIBRARIES}
    for user in users():
        told = subprocess.run(["nm", "-D", "--undefined-only", user], capture_output=True, text=True, check=True)
        for symbol, library in re.findall(r" U (\w+)@(\S+)", told.stdout):
            if library in names:
                names[library].add(symbol)
        # The driver's functions have no versions.
        names["libcuda.so.1"] |= set(re.findall(r" U (cu[A-Z]\w+)$", told.stdout, re.MULTILINE))
        # ONNX Runtime asks for cuDNN's functions by name.
        names["libcudnn.so.9"] |= {name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", user.read_bytes())}
    return names


def build(folder: Path) -> list[Path]:
    """Compile the libraries into `folder`; what is not written here returns 0, which is success everywhere in CUDA."""
    include, libraries = headers(), []
    for library, symbols in wanted().items():
        code, header = _LIBRARIES[library]
        text = "" if code is None else (HERE / code).read_text()
        if header is not None:
            symbols |= {a or b for a, b in _DECLARED.findall((include / header).read_text())}
        rest = sorted(symbols - set(_DEFINED.findall(text)))
        source, versions, made = folder / f"{library}.c", folder / f"{library}.map", folder / library
        source.write_text(text + "".join(f"long {name}() {{ return 0; }}\n" for name in rest))
        versions.write_text("" if library == "libcuda.so.1" else f"{library} {{ global: *; }};\n")
        options = ["-O1", "-w", "-shared", "-fPIC", f"-I{include}", f"-Wl,-soname,{library}"]
        if versions.read_text():
            options.append(f"-Wl,--version-script={versions}")
        subprocess.run(["gcc", *options, "-o", made, source], check=True)
        libraries.append(made)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return libraries


def counted(log: Path) -> Counter[str]:
    """Calls by kind."""
    lines = [line for line in log.read_text().splitlines() if not line.startswith("#")]
    return Counter(line if line.startswith("FORBIDDEN") else line.split()[0] for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="keep the calls here")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("a command is missing")
    with tempfile.TemporaryDirectory() as folder:
        log = args.log or Path(folder) / "calls.txt"
        log.write_text("")
        preload = ":".join(map(str, build(Path(folder))))
        # Triton links with the driver's library, which it looks for here.
        env = os.environ | {"LD_PRELOAD": preload, "IMITATION_LOG": str(log.resolve()), "TRITON_LIBCUDA_PATH": folder}
        code = subprocess.run(args.command, env=env).returncode
        if code < 0:
            print(f"the command was ended by signal {-code}", file=sys.stderr)
        calls = counted(log)
        print("calls:", ", ".join(f"{count} {name}" for name, count in calls.most_common()), file=sys.stderr)
        return code or int(any("FORBIDDEN" in name for name in calls))


if __name__ == "__main__":
    sys.exit(main())
