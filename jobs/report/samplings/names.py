"""Names of samplings in words."""

import re
from collections.abc import Mapping
from typing import Any

from jobs.quantities import figure


def in_words(differs: Mapping[str, Any]) -> str:
    """Return what a sampling has for itself, for tables: "unipc, logsnr10, guidance classifier_free 1.5"; "" for the main one."""
    return ", ".join(_phrase(key, value) for key, value in differs.items())


def _phrase(key: str, value: Any) -> str:
    if key in ("sampler", "timestep_respacing"):
        return str(value) or "full chain"
    if value is None:
        return f"no {key}"
    if isinstance(value, Mapping):
        return " ".join([key, *(_shown(inner) if name in ("kind", "scale") else f"{name} {_shown(inner)}"
                                for name, inner in value.items() if inner is not None)])
    return f"{key} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "–".join(map(_shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return figure(value) if isinstance(value, float) and value else str(value)


def family(sampler: str, timestep_respacing: str, others: Mapping[str, Any]) -> str:
    """Return the name of a line of a chart: the sampler, how its steps are chosen, and other settings of the chain."""
    spacing = re.match("[a-z]*", timestep_respacing)
    word = spacing[0] if spacing else ""
    if "," in timestep_respacing:
        word = "sections"
    return ", ".join(filter(None, [" ".join(filter(None, [sampler, "even stride" if word == "ddim" else word])),
                                   in_words(others)]))
