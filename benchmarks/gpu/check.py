"""The parts of `benchmarks/gpu_check.sh`, while time lasts, and the page of results.

First the networks are made; then everything that compiles or tests runs at once, because compilers are what takes long and most
of it keeps one core busy; then every measurement runs alone. Knows no more of jboost than its command line and the JSON that this
prints; what cannot be measured is listed with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 465.0  # seconds for all parts


@dataclass(frozen=True)
class Part:
    """A command.

    Attributes:
        stage: "prepare" and "measure" run one part after the other, "compile" all of its parts at once.
        limit: the seconds that it gets; no part gets more than is left.
        result: the JSON file that it writes, if any.
        output: whether the page quotes what it prints.
    """

    stage: Literal["prepare", "compile", "measure"]
    name: str
    command: list[str]
    limit: float
    result: str | None = None
    output: bool = False


def parts(out: Path) -> list[Part]:
    """By stage, and in a stage in the order of what matters most."""
    python, here = sys.executable, str(Path(__file__).parent)
    command = shutil.which("jboost", path=str(Path(python).parent)) or shutil.which("jboost") or "jboost"

    def export(network: str, bundle: str, formats: str, dtypes: str, batch: int) -> list[str]:
        checkpoint = str(out / f"{network}.safetensors")
        return [
            command, "export", "--ckpt", checkpoint, "-o", str(out / bundle), "--format", formats, "--dtype", dtypes,
            "--objective", "joint", "-b", str(batch), "--device", "cuda", "--debug",
        ]  # fmt: skip

    def bench(bundle: str, dtypes: str, engines: str, *more: str, result: str | None = None) -> list[str]:
        return [
            command, "bench", "--bundle", str(out / bundle), "--dtype", dtypes, "--engine", engines, "--json",
            str(out / f"{result or bundle}.json"), "--no-first-batch", *more,
        ]  # fmt: skip

    tests = sorted(str(path) for path in (ROOT / "tests").rglob("*.py") if "mark.gpu" in path.read_text())
    folders = dict.fromkeys(str(Path(path).parent) if path.endswith("conftest.py") else path for path in tests)
    pytest = [
        python,
        "-m",
        "pytest",
        "-v",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-n",
        "4",
        "--dist",
        "loadfile",
        *folders,
    ]
    plain = bench("rn50", "fp16", "compile", "--rounds", "5", result="torch_compile")
    only = "--no-torch-compile"
    settings = [
        python, f"{here}/settings.py", str(out / "resnet50.safetensors"), "default",
        "tma:triton.enable_persistent_tma_matmul=True", "half:batch=128", "--out", str(out / "settings"),
    ]  # fmt: skip
    rn50, one, wrn = (str(out / bundle) for bundle in ("rn50", "one", "wrn"))
    return [
        Part("prepare", "doctor", [command, "doctor", "--json"], 30),
        Part("prepare", "networks", [python, f"{here}/networks.py", "--out", str(out)], 60),
        Part("compile", "export resnet50", export("resnet50", "rn50", "compile", "fp16", 256), 330),
        Part("compile", "tests", pytest, 300, output=True),
        Part("compile", "half precision", [python, f"{here}/half.py", "--demo", str(out / "demo")], 300, output=True),
        Part("compile", "export resnet50 onnx", export("resnet50", "onnx", "onnx", "fp32,fp16", 256), 200),
        Part("compile", "export batch 1", export("resnet50", "one", "compile", "fp16", 1), 330),
        Part("compile", "export wrn50-2", export("wide_resnet50_2", "wrn", "compile", "fp16", 100), 330),
        Part("compile", "trt plan", export("resnet50", "trt", "trt", "fp16,fp32", 256), 200),
        Part("measure", "load", [python, f"{here}/load.py", rn50], 60, output=True),
        Part("measure", "bench resnet50", bench("rn50", "fp32,fp16", "compile,eager", only), 60, "rn50.json"),
        Part("measure", "step", [python, f"{here}/step.py", rn50, one, wrn, "--kernels", "0"], 60, output=True),
        Part("measure", "50,000 images", [python, f"{here}/whole_run.py", rn50, "--images", "50000"], 60, output=True),
        Part("measure", "bench batch 1", bench("one", "fp16", "compile", only), 40, "one.json"),
        Part("measure", "bench wrn50-2", bench("wrn", "fp16", "compile", only), 40, "wrn.json"),
        Part("measure", "bench resnet50 onnx", bench("onnx", "fp32,fp16", "onnx", only), 60, "onnx.json"),
        Part("measure", "captures", [python, f"{here}/captures.py", one, rn50], 40, output=True),
        Part("measure", "bench torch.compile", plain, 300, "torch_compile.json"),
        Part("measure", "bench trt", bench("trt", "fp16", "trt", only), 40, "trt.json"),
        Part("measure", "settings", settings, 240, output=True),
        Part("measure", "strided forms", [python, f"{here}/strided.py"], 150, output=True),
    ]


def run(part: Part, out: Path, left: float, threads: int | None = None) -> dict[str, Any]:
    """Run a part, on so many CPU threads (None: on all); its output goes to a log of its own."""
    log = out / f"{part.name.replace(' ', '_').replace(',', '')}.log"
    limit = min(part.limit, left)
    if limit < 5:
        return {"part": part.name, "status": "not begun: no time left"}
    env = os.environ | {"PYTHONFAULTHANDLER": "1"}
    if threads is not None:
        env |= {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
    start = time.perf_counter()
    with log.open("w") as file:
        try:
            # A session of its own, so that what it starts can be ended with it.
            process = subprocess.Popen(
                part.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                env=env,
            )
        except OSError as e:
            return {"part": part.name, "status": f"could not be started: {e}"}
        try:
            code = process.wait(limit)
            status = "ok" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
            _end(process)
    lines = log.read_text(errors="replace").strip().splitlines()
    found = {
        "part": part.name, "status": status, "seconds": time.perf_counter() - start, "output": part.output, "tail": lines[-24:],
    }  # fmt: skip
    if status == "ok" and part.result is not None:
        found["result"] = json.loads((out / part.result).read_text())
    return found


def run_all(chosen: list[Part], out: Path, end: float) -> Iterator[dict[str, Any]]:
    """Run the parts, stage by stage; yields what became of each as soon as it has ended."""

    def left() -> float:
        return end - time.perf_counter()

    for stage in ("prepare", "compile", "measure"):
        here = [part for part in chosen if part.stage == stage]
        if stage == "compile" and len(here) > 1:
            threads = max(2, (os.cpu_count() or 1) // 2)
            with ThreadPoolExecutor(len(here)) as pool:
                for future in as_completed([pool.submit(run, part, out, left(), threads) for part in here]):
                    yield future.result()
        else:
            for part in here:
                yield run(part, out, left())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started; first in a way that makes Python say where it was."""
    for how in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


def machine() -> dict[str, str]:
    """The GPU and its driver."""
    try:
        query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
        said = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True).stdout
    except OSError as e:
        said = str(e)
    return {"gpu": said.strip(), "python": sys.version.split()[0]}


def page(results: dict[str, Any]) -> str:
    """The results for people."""
    lines = [f"# {results['machine']['gpu']}", "", "| part | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {p['part']} | {p['status']} | {p.get('seconds', 0):.0f} |" for p in results["parts"]]
    for part in results["parts"]:
        measured = part.get("result", {}).get("contestants", [])
        if measured:
            lines += ["", f"## {part['part']}", "", "| | ms an image-step | over eager float32 |", "|---|---|---|"]
            lines += [
                f"| {c['name']} {c['dtype']} | {c['ms_per_image_step']:.5f} | {c['ratio']:.2f} |" for c in measured
            ]
        elif part["status"] != "ok" or part.get("output"):
            lines += ["", f"## {part['part']}", "", "```", *part.get("tail", []), "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run every part, or those that are named; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts")
    parser.add_argument("only", nargs="*", metavar="PART", help="parts to run, by name; the results of others are kept")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    every = parts(out)
    if unknown := set(args.only) - {part.name for part in every}:
        parser.error(f"no part is called {', '.join(unknown)}; there are: {', '.join(part.name for part in every)}")
    end = time.perf_counter() + args.budget
    file, done = out / "results.json", {}
    if args.only and file.exists():
        done = {part["part"]: part for part in json.loads(file.read_text())["parts"]}
    results: dict[str, Any] = {"machine": machine(), "parts": []}
    for result in run_all([part for part in every if not args.only or part.name in args.only], out, end):
        done[result["part"]] = result
        print(f"{result['part']}: {result['status']} ({result.get('seconds', 0):.0f} s)", flush=True)
        results["parts"] = [done[other.name] for other in every if other.name in done]
        # After each part: what was measured is kept even if the machine goes away.
        file.write_text(json.dumps(results, indent=2) + "\n")
        (out / "results.md").write_text(page(results))
    print((out / "results.md").read_text())
    return 0 if all(p["status"] == "ok" for p in results["parts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
