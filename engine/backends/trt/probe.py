"""Find out whether this machine can run TensorRT plans."""

from __future__ import annotations

import importlib.util

from jboost.engine.backends.engine import Availability
from jboost.engine.errors import BadInputError
from jboost.engine.system.gpu import find_driver

from .variant import INSTALL, VARIANTS, found_variants, load_variant

# Other modules that plans need, with the commands that install them.
_OTHER_MODULES = {"pycuda": "pip install pycuda", "cuda.bindings": "pip install cuda-python"}


def probe() -> Availability:
    """Return whether there is a GPU, pycuda, cuda-python and a TensorRT that imports; the slow import comes last."""
    driver, found = find_driver(), found_variants()
    if driver.problem is not None:
        remedy = "use --engine compile, onnx or eager; plans for other GPUs: jboost export --ckpt FILE --format trt --gpu sm_86"
        return Availability(False, driver.problem, remedy if found else "use --engine compile, onnx or eager")
    if not found:
        return Availability(
            False, f"no {' or '.join(VARIANTS.values())} is installed", f"install it: {INSTALL['tensorrt']}"
        )
    for module, command in _OTHER_MODULES.items():
        if not has_module(module):
            return Availability(False, f"{module} is not installed", f"install it: {command}")
    usable, why = [], []
    for name in found:
        try:
            variant = load_variant(name)
        except BadInputError as e:
            why.append(str(e))
            continue
        if variant.capabilities and driver.gpus[0].capability not in variant.capabilities:
            why.append(f"{variant} has no kernels for the {driver.gpus[0]}")
        else:
            usable.append(str(variant))
    if not usable:
        return Availability(False, "; ".join(why), f"install TensorRT: {INSTALL['tensorrt']}")
    return Availability(True, f"{', '.join(usable)}, {driver.gpus[0]}")


def has_module(name: str) -> bool:
    """Return whether a module, or a package's submodule, is installed."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package itself is missing
        return False
