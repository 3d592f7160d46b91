"""``jboost doctor``: the engines that run here, what the others lack, and the NVIDIA software found."""

from __future__ import annotations

from dataclasses import asdict

from .json_output import print_json
from .options import AsJson, Debug
from .tables import print_columns


def doctor(
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List which engines run here and why, what to install for the others, and what a GPU needs.

    Example: jboost doctor
    """
    import platform

    from jboost.engine.backends.registry import ENGINES, installed
    from jboost.engine.system.environment import set_variables
    from jboost.engine.system.machine import describe_gpu

    from .doctor_cuda import cuda_facts, cuda_rows

    engines = {name: engine.probe() for name, engine in ENGINES.items()}
    packages = installed("jboost", "torch", "numpy", "onnx", "onnxruntime-gpu", "onnxruntime")
    machine = {"python": platform.python_version(), "platform": platform.platform(), "gpu": describe_gpu()}
    cuda = cuda_facts()  # after torch, so that the version found is that of the cuDNN torch loaded
    overriding = set_variables()
    if as_json:
        found = {"engines": {name: asdict(found) for name, found in engines.items()}, "packages": packages}
        environment = {v.name: {"value": value, "effect": v.effect, "action": v.action} for v, value in overriding}
        print_json(found | machine | {"cuda": cuda, "environment": environment})
        return
    rows = [(name, "yes" if found.available else "no", found.why, found.remedy) for name, found in engines.items()]
    print_columns([("engine", "here", "why", "what to do"), *rows])
    print()
    facts = [(key, value or "none") for key, value in machine.items()]
    print_columns(
        [*facts, ("packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version))]
    )
    if overriding:
        print()
        rows = [(v.name, value, v.effect, v.action) for v, value in overriding]
        print_columns([("environment", "value", "what it does", "here"), *rows])
    print()
    print_columns([("for a GPU", "here", "needed by", "what to do"), *cuda_rows(cuda)])
