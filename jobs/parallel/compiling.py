"""torch.compile as a spec asks for it.

`default` generates the same code on every machine with the same software, so that what is promised of eager runs holds for
compiled ones too. `max-autotune` times kernels and takes the fastest, which another process may judge otherwise: then sums are
taken in another order. On a GPU it also records CUDA graphs, unless whoever calls the network records it with more around it.
"""

from typing import Any

import torch

from jobs.errors import UserError


def compile_options(mode: str, recorded: bool = False) -> dict[str, Any]:
    """Keyword arguments for torch.compile. `recorded`: what is compiled becomes part of a larger CUDA graph."""
    options = {"default": {"options": {"deterministic": True}},
               "max-autotune": {"mode": "max-autotune-no-cudagraphs" if recorded else "max-autotune"}}
    # By shape: with shapes left open the code for one batch would depend on which others a process has seen.
    return {"dynamic": False, **options[mode]}


def check_compiler(key: str, device: torch.device) -> None:
    """Try the compiler on one small kernel. Raises UserError that names the setting `key` where it does not work."""
    from torch._inductor import config

    try:
        with config.patch(fx_graph_cache=False):  # a kernel compiled before proves nothing
            torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # torch raises whatever it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        needed = "triton and a C compiler" if device.type == "cuda" else "a C++ compiler such as g++"
        raise UserError(f"{key}: torch.compile does not work on this machine ({reason}); it needs {needed}. "
                        f"Without one, set {key}: false") from error
