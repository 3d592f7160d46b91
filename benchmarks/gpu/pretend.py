"""Pretend that there is an H200, so that Inductor writes code for it on a machine without a GPU.

Replaces what Inductor asks of a GPU: its properties, the time of kernels, memory on it. Weights are torch's fake tensors, so
nothing can run; Triton's compiler and ptxas work as ever. It reaches into torch's internals: tried with torch 2.11.0+cu130 and
2.13.0+cu130.
"""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch._dynamo import device_interface
from torch._inductor import config, graph, inductor_prims, scheduler, select_algorithm
from torch._inductor.fx_passes import fuse_attention, misc_patterns, pad_mm
from torch._inductor.ir import MultiTemplateBuffer
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._subclasses import fake_tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import compiler as triton_compiler

_H200 = SimpleNamespace(
    type="cuda", name="NVIDIA H200", major=9, minor=0, total_memory=150 * 10**9, L2_cache_size=60 * 2**20, warp_size=32,
    multi_processor_count=132, regs_per_multiprocessor=65536, max_threads_per_block=1024, max_threads_per_multi_processor=2048,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    is_integrated=0, is_multi_gpu_board=0, clock_rate=1980000, memory_clock_rate=3201000, memory_bus_width=6144,
)  # fmt: skip


class _Driver:
    """Triton's driver, which only says what to compile for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda


class _NoGuard:
    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def pretend_gpu(products: str) -> None:
    """From now on this process takes itself for one with an H200.

    Args:
        products: who wins when kernels for a product are tried: ``"library"`` (cuBLAS, cuDNN) or ``"triton"``, whose products take
            along what follows them. On a GPU it is one here and the other there.
    """
    _device()
    _no_execution()
    _triton()
    _contest(products)


def _device() -> None:
    def properties(*_: Any) -> SimpleNamespace:
        return _H200

    answers: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda *_: 0,
        "get_device_properties": properties,
        "get_device_capability": lambda *_: (9, 0), "get_compute_capability": lambda *_: 90,
        "get_device_name": lambda *_: _H200.name, "set_device": lambda *_: None, "synchronize": lambda *_: None,
        "memory_allocated": lambda *_: 0, "exchange_device": lambda *_: 0, "maybe_exchange_device": lambda *_: 0,
        "_lazy_init": lambda: None, "device": _NoGuard, "_DeviceGuard": _NoGuard,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
        setattr(device_interface.CudaInterface, name, answer if name == "device" else staticmethod(answer))
    device_interface.CudaInterface.Worker.get_device_properties = staticmethod(properties)  # type: ignore[method-assign]
    device_interface.CudaInterface.Worker.current_device = staticmethod(lambda: 0)  # type: ignore[method-assign]
    for module in (torch.cuda, torch.cuda.random):
        module.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
        module.set_rng_state = lambda *_: None


def _no_execution() -> None:
    """What Inductor computes while it compiles: patterns it traces on the device, and the values of small constants."""
    fake_tensor.init_gpu_context = lambda *_: None
    fake_tensor.FakeTensor.item = lambda self: 0.5 if self.dtype.is_floating_point else 1
    fake_tensor.FakeTensor.tolist = lambda self: [self.item()] * self.numel()
    fuse_attention._sfdp_init = misc_patterns._misc_patterns_init = pad_mm._pad_mm_init = lambda *_: None
    config.joint_graph_constant_folding = False
    graph.is_same_tensor = operator.is_  # by address, which fake tensors have none of

    def force_stride(input_tensor: torch.Tensor, stride: Any) -> torch.Tensor:
        return input_tensor.new_empty_strided(input_tensor.shape, stride)

    inductor_prims.eager_force_stride.__code__ = force_stride.__code__


def _triton() -> None:
    for name in ("use_static_cuda_launcher", "use_static_triton_launcher"):
        if hasattr(config, name):
            setattr(config, name, False)
    config.compile_threads = 1

    def to_gpu() -> None:
        triton.runtime.driver.set_active(_Driver())

    to_gpu()
    triton_helpers.set_driver_to_gpu = to_gpu
    # Compiled when it is asked for, below; loading a kernel onto the device is left out.
    triton_heuristics.CachingAutotuner.precompile = lambda self, *_, **__: None

    def handles(self: Any) -> None:
        self.module = self.function = self.n_spills = 0
        self.n_regs, self.n_max_threads, self._run = 32, 1024, lambda *_: None

    triton_compiler.CompiledKernel._init_handles = handles


def _contest(products: str) -> None:
    caller = select_algorithm.TritonTemplateCaller

    def timings(self: Any, choices: Any, *_: Any, **__: Any) -> dict[Any, float]:
        return {
            choice: 1.0 + i / 1000 + (isinstance(choice, caller) != (products == "triton"))
            for i, choice in enumerate(choices)
        }

    def fuse(self: Any, one: Any, other: Any) -> Any:
        for node in (one, other):
            template = node.get_template_node() if node.is_template() else None
            if isinstance(template, MultiTemplateBuffer):
                times = template.choice_timings()
                kernels = [choice for choice in times if isinstance(choice, caller)]
                if products == "library" or not kernels:
                    return scheduler.FusionResult.fuse(False)
                template.finalize_as_triton_caller(min(kernels, key=times.__getitem__))
        return scheduler.FusionResult.fuse(True)

    cache = select_algorithm.AlgorithmSelectorCache
    cache.benchmark = timings
    cache.make_precompile_fn = lambda *_, **__: dict
    cache.lookup = lambda self, choices, op, inputs, benchmark, **_: benchmark(choices) if benchmark else {}
    cache.log_results = staticmethod(lambda *_, **__: None)
    config.max_autotune_report_choices_stats = False
    scheduler.Scheduler.speedup_by_fusion = fuse
