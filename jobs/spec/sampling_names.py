"""The names of samplings: of their folders, and of their rows in tables."""

import re
from collections.abc import Mapping
from typing import Any

from jobs.quantities import figure
from jobs.spec.kinds import kind_of
from jobs.spec.samplings import Sampling, differing, with_sampling
from jobs.spec.sections import Spec
from jobs.storage.files import sha256_of_json

MOST = 200
"""Characters of a folder's name; file systems end at 255 bytes."""
CHAIN = ("sampler", "timestep_respacing")
"""Keys that words begin with, and whose values speak for themselves."""


def folder_name(spec: Spec, sampling: Sampling) -> str:
    """Return the name of the folder of `sampling` in samples/: such as "step-00001000,ddim,25" or "...,ema_rate=0.99".

    No two samplings of a run have equal names: where the words cannot say a value exactly, a hash of all settings follows.
    """
    facts = {key: value for key, value in kind_of(spec).sampling_facts(with_sampling(spec, sampling)).items()
             if key in type(spec.sample).model_fields}
    changes = differing(spec, sampling)
    words = [f"step-{sampling.step:08}", *(str(value) or "full" for value in facts.values())]
    others = {key: value for key, value in changes.items() if key not in facts}
    name = ",".join([*words, *(f"{key}={_word(value)}" for key, value in others.items())])
    if len(name) <= MOST and all(map(_is_exact, others.values())):
        return name
    digest = sha256_of_json(changes)[:10]
    return f"{name[:MOST - 1 - len(digest)]},{digest}"


def _word(value: Any) -> str:
    """Return a value in letters, digits and . _ + - : of a mapping all values, the first without its key."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        words = [_word(inner) if key == "kind" else f"{key}-{_word(inner)}" for key, inner in value.items() if inner is not None]
        return "+".join(words) or "empty"
    if isinstance(value, (list, tuple)):
        return "_".join(map(_word, value)) or "empty"
    return re.sub(r"[^A-Za-z0-9._-]", "-", str(value)) or "empty"


def _is_exact(value: Any) -> bool:
    """Return whether no other value of the key has the same `_word`, also where case does not count."""
    if isinstance(value, str):
        return re.fullmatch(r"[a-z][a-z0-9_]*", value) is not None and value not in ("none", "true", "false", "empty")
    if isinstance(value, Mapping):
        return all(inner is None or key == "kind" or _is_exact(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(one, (int, float)) for one in value)
    return True


def in_words(differs: Mapping[str, Any]) -> str:
    """Return what a sampling has for itself, for tables: "unipc, logsnr10, guidance classifier_free 1.5"; "" for the main one.

    `differs` is that of evaluation.json.
    """
    first = [key for key in CHAIN if key in differs]
    return ", ".join(_phrase(key, differs[key]) for key in [*first, *(key for key in differs if key not in CHAIN)])


def _phrase(key: str, value: Any) -> str:
    if key in CHAIN:
        return f"{value} steps" if str(value).isdecimal() else str(value) or "full chain"
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
