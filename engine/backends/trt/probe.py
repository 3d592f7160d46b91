"""Whether TensorRT plans can run on this machine."""

from __future__ import annotations

import importlib.util

from jboost.engine.backends.engine import Availability
from jboost.engine.errors import BadInputError
from jboost.engine.system.gpu import find_driver

from .variant import FLAVOURS, INSTALL, found_flavours, load_flavour

#: What else a plan needs, and what to type to get it, by module.
_BESIDES = {"pycuda": "pip install pycuda", "cuda.bindings": "pip install cuda-python"}


def probe() -> Availability:
    """A TensorRT that can be imported, pycuda, cuda-python and a GPU; the import comes last, for the sake of time."""
    driver, found = find_driver(), found_flavours()
    if driver.problem is not None:
        remedy = "use --engine compile, onnx or eager; plans for GPUs elsewhere: jboost export --format trt --gpu sm_86"
        return Availability(False, driver.problem, remedy if found else "use --engine compile, onnx or eager")
    if not found:
        return Availability(
            False, f"no {' or '.join(FLAVOURS.values())} is installed", f"install it: {INSTALL['tensorrt']}"
        )
    for module, command in _BESIDES.items():
        if not has_module(module):
            return Availability(False, f"{module} is not installed", f"install it: {command}")
    usable, why = [], []
    for name in found:
        try:
            flavour = load_flavour(name)
        except BadInputError as e:
            why.append(str(e))
            continue
        if flavour.capabilities and driver.gpus[0].capability not in flavour.capabilities:
            why.append(f"{flavour} has no kernels for the {driver.gpus[0]}")
        else:
            usable.append(str(flavour))
    if not usable:
        return Availability(False, "; ".join(why), f"install TensorRT: {INSTALL['tensorrt']}")
    return Availability(True, f"{', '.join(usable)}, {driver.gpus[0]}")


def has_module(name: str) -> bool:
    """Whether a module, or one inside a package, is installed."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it
        return False
