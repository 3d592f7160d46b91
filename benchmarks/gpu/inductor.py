"""What AOTInductor writes for an H200, found out without one: kernels, the memory that they touch, and whether ptxas takes them.

    python benchmarks/gpu/inductor.py [--arch resnet50] [--batch 256] [--size 64] [--dtype fp16] [--products library|triton]

Needs a CUDA build of torch, which brings Triton and ptxas, and no GPU. Weights are left out of the memory. Says nothing of time but
a bound: what an H200's memory, 4.8 TB/s, takes at least if nothing stays in its cache. For comparison, `--plain` takes the graph as
torch traces it, but for max-pooling, with torch's own settings.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.export.compiled.aoti import inductor_configs
from jboost.export.compiled.packages import Compiler
from jboost.export.graph import attach_objective, lower_precision, trace_trunk
from jboost.export.graph.program import export_program
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import JointModel

_MEMORY = 4.8e12  # bytes a second


def program(arch: str, batch: int, size: int, dtype: str, *, plain: bool) -> torch.export.ExportedProgram:
    """The joint objective's gradient graph as it is given to AOTInductor, of an untrained network; on the CPU."""
    model = JointModel(build_network(arch, 1000), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model.eval().requires_grad_(False)
    shape = (3, size, size)
    if plain:
        trunk = trace_trunk(model, torch.rand(batch, *shape), pooling="gather")
    else:
        trunk = Compiler(model, shape, batch, None, "cuda").lowered("fp32").trunk
    if dtype != "fp32":
        trunk = lower_precision(trunk, TORCH_DTYPES[dtype], 2.0**10)
    return export_program(attach_objective(trunk, "joint", 3.0))


def without_values(exported: torch.export.ExportedProgram) -> tuple[torch.fx.GraphModule, list[Any], Any]:
    """(graph, example inputs, fake mode): on ``cuda:0``, all tensors fake."""
    nodes = [node for node in exported.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    mode = nodes[0].meta["val"].fake_mode

    def fake(tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor):
            return tensor
        with mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda:0")

    for values in (exported._state_dict, exported._constants):
        values.update({name: fake(value) for name, value in values.items()})
    exported._example_inputs = None
    moved = move_to_device_pass(exported, "cuda:0")
    inputs = set(moved.graph_signature.user_inputs)
    arguments = [n.meta["val"] for n in moved.graph.nodes if n.op == "placeholder" and n.name in inputs]
    return moved.module(check_guards=False), arguments, mode


def watch(seen: dict[str, Any]) -> None:
    """Have `seen` filled with what Inductor makes: launches and bytes by kind of kernel, kernels compiled, the C++ around them."""
    from torch._inductor import codecache, scheduler
    from torch._inductor.codegen import wrapper
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    launches, touched = seen.setdefault("launches", Counter()), seen.setdefault("bytes", Counter())
    write = scheduler.Scheduler.codegen

    def codegen(self: Any) -> None:
        for node in self.nodes:
            if isinstance(node, scheduler.NopKernelSchedulerNode):
                continue
            kind = "library" if node.is_extern() else "product" if node.is_template() else "other"
            launches[kind] += 1
            touched[kind] += node.get_read_write_buffers_sizes()
        write(self)

    def compile_kernels(self: Any) -> None:
        self.kernel_autotune_defs.splice("\nasync_compile.wait(globals())\ndel async_compile\n")
        scope: dict[str, Any] = {}
        exec(self.kernel_autotune_defs.getvalue(), scope)
        for kernel in scope.values():
            if isinstance(kernel, CachingAutotuner):
                # The first of its configurations; on a GPU all are tried.
                compiled = kernel._precompile_config(kernel.configs[0])
                kernel.save_gpu_kernel(0, compiled.make_launcher())
                seen["kernels"] = seen.get("kernels", 0) + 1
                seen["atomics"] = seen.get("atomics", 0) + (" atom." in compiled.kernel.asm["ptx"])

    def stop(graph: Any, code: str, *_: Any, **__: Any) -> None:
        seen["c++"] = code
        raise RuntimeError("all that there is to see without a GPU has been seen")

    scheduler.Scheduler.codegen = codegen
    wrapper.PythonWrapperCodegen.generate_and_run_autotune_block = compile_kernels
    codecache.AotCodeCompiler.compile = staticmethod(stop)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--products", choices=("library", "triton"), default="triton")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--code", type=Path, help="keep the C++ that AOTInductor writes around the kernels")
    args = parser.parse_args()
    if torch.version.cuda is None:
        parser.error(f"torch {torch.__version__} is not a CUDA build; in a fresh environment: pip install torch")
    exported = program(args.arch, args.batch, args.size, args.dtype, plain=args.plain)
    from pretend import pretend_gpu
    from torch._inductor.compile_fx import compile_fx_aot

    configs = {"freezing": True, "max_autotune": True} if args.plain else inductor_configs("cuda")
    pretend_gpu(args.products)
    seen: dict[str, Any] = {}
    watch(seen)
    graph, arguments, mode = without_values(exported)
    try:
        with torch.no_grad(), mode, torch._inductor.config.patch(configs | {"fx_graph_cache": False}):
            compile_fx_aot(graph, arguments)
    except RuntimeError:  # Inductor wraps it
        if "c++" not in seen:
            raise
    if args.code is not None:
        args.code.write_text(seen["c++"])
    print(f"{args.arch}, {args.size} px, batch {args.batch}, {args.dtype}, torch {torch.__version__}, for an H200")
    for kind in ("library", "product", "other"):
        if seen["launches"][kind]:
            share = seen["bytes"][kind] / args.batch / 1e6
            print(f"  {seen['launches'][kind]:4d} {kind:8s} {share:7.2f} MB an image")
    total = seen["bytes"].total()
    bound = total / args.batch / _MEMORY * 1e6
    print(
        f"  {seen['launches'].total():4d} launches {total / args.batch / 1e6:7.2f} MB an image: {bound:.2f} us at least"
    )
    print(f"{seen['kernels']} Triton kernels compiled for sm_90, {seen['atomics']} with atomics")
    return 0


if __name__ == "__main__":
    sys.exit(main())
