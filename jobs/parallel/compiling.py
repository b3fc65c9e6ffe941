"""torch.compile with the modes that a spec can name.

`default` generates the same code on every machine with the same software, so that compiled runs are as reproducible as eager
runs. `max-autotune` times kernels and takes the fastest. Another process may choose another kernel, which adds numbers in
another order. On a GPU, `max-autotune` also records CUDA graphs, unless the caller records the network in a larger graph.
`blocks` generates the code of `default` for each residual block and attention layer: blocks of equal shapes share theirs, so that
compiling takes a fraction of the time.
"""

import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion.networks.layers import Recomputable
from jobs.errors import UserError

BLOCKS = "blocks"
SHAPES = 256
"""Kinds of blocks, by shapes and settings, of one network: more than any has. torch's own limit is 8."""
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compile_in_place(network: nn.Module, mode: str, recorded: bool = False) -> None:
    """Compile `network`, or with `blocks` its blocks if it has some, at their next call."""
    blocks: list[nn.Module] = [each for each in network.modules() if isinstance(each, Recomputable)] if mode == BLOCKS else []
    if blocks:
        torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
        # The compiler looks at gradients of a block's inputs, and torch warns that those have none.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf Tensor")
    for module in blocks or [network]:
        module.compile(**compile_options("default" if mode == BLOCKS else mode, recorded))


def uncompiled(mode: str | bool) -> contextlib.AbstractContextManager[object]:
    """In this block, compute without compiled code, if `mode` compiles at all: for images of another number than training has."""
    return torch.compiler.set_stance("force_eager") if mode else contextlib.nullcontext()


def keep_compiled_code(folder: Path) -> None:
    """Keep generated code in `folder` for later processes, unless the user names another. Call before the first compiling."""
    os.environ.setdefault(CACHE, str(folder.resolve()))


def compile_options(mode: str, recorded: bool = False) -> dict[str, Any]:
    """Keyword arguments for torch.compile. With `recorded` the compiled network becomes part of a larger CUDA graph."""
    options: dict[str, dict[str, Any]] = {"default": {"options": {"deterministic": True}},
               "max-autotune": {"mode": "max-autotune-no-cudagraphs" if recorded else "max-autotune"}}
    # Compile for each shape: with dynamic shapes the code for one batch would depend on the batches that came before.
    return {"dynamic": False, **options[mode]}


def check_compiler(key: str, device: torch.device) -> None:
    """Try the compiler on one small kernel. Raises UserError that names the setting `key` if the compiler does not work."""
    from torch._inductor import config  # private, and slow to load: only if a spec asks for the compiler

    try:
        with config.patch(fx_graph_cache=False):  # a kernel from the cache would prove nothing
            torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # the compiler can raise any exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        needed = "triton and a C compiler" if device.type == "cuda" else "a C++ compiler such as g++"
        raise UserError(f"{key}: torch.compile does not work on this machine ({reason}); it needs {needed}. "
                        f"Without one, set {key}: false") from error
