"""What evaluation.json says of many samplings of one training, without computing them."""

from typing import Any

STEPS = 40
"""Of the full chain of the small spec."""
CHAINS = (  # sampler, respacing, steps, evaluations, fid, half of its interval
    ("ancestral", "", 40, 40, 1.00, 0.05), ("ancestral", "20", 20, 20, 1.02, 0.05), ("ancestral", "5", 5, 5, 3.0, 0.10),
    ("ddim", "10", 10, 10, 1.04, 0.05), ("ddim", "5", 5, 5, 1.20, 0.06), ("unipc", "logsnr8", 8, 8, 1.03, 0.04),
    ("unipc", "logsnr4", 4, 4, 1.60, 0.07), ("heun", "quad4", 4, 7, 1.30, 0.06))


def entry(sampler: str, respacing: str, steps: int, evaluations: int, metrics: dict[str, float],
          halves: dict[str, float] | None = None, step: int = 12, **differs: Any) -> dict[str, Any]:
    own = {key: value for key, value, main in (("sampler", sampler, "ancestral"), ("timestep_respacing", respacing, ""))
           if value != main}
    intervals = {key: [metrics[key] - half, metrics[key] + half] for key, half in (halves or {}).items()}
    return {"step": step, "sampler": sampler, "timestep_respacing": respacing, "sampling_steps": steps,
            "evaluations": evaluations, "differs": own | differs, "samples": 100, "metrics": metrics, "intervals": intervals}


def chains(shift: float = 0.0) -> list[dict[str, Any]]:
    """Samplings that differ in the chain alone: the cheapest as good is unipc with 8 evaluations."""
    return [entry(*chain, {"fid": fid + shift, "precision": 0.8, "recall": 0.5}, {"fid": half})
            for *chain, fid, half in CHAINS]


def guided() -> list[dict[str, Any]]:
    """Samplings over the full chain with three kinds of guidance."""
    found = []
    for kind, scales, factor in (("classifier_free", (1.5, 2.0, 3.0), 2), ("classifier", (0.5, 1.0, 4.0), 2),
                                 ("autoguidance", (1.3, 1.7), 2)):
        for scale in scales:
            metrics = {"fid": 0.9 + (scale - 1.6) ** 2 / 9, "precision": 0.8 + scale / 40, "recall": 0.5 - scale / 12,
                       "label_accuracy": 0.9 + scale / 50}
            found.append(entry("ancestral", "", 40, 40 * factor, metrics, {"fid": 0.05, "label_accuracy": 0.02},
                               guidance={"kind": kind, "scale": scale, "interval": None}))
    return found


def evaluation(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """An evaluation.json with these samplings, the main one first."""
    main = curve[0]
    fid, ends = main["metrics"]["fid"], main["intervals"].get("fid")
    return {"weights_sha256": "0" * 64, "samples": 100, "settings": {}, "reference": {"path": "digits", "images": 1500},
            "features": {"name": "classifier", "sha256": None, "note": "a small one", "comparable": False},
            "metrics": {"fid": {"value": fid, "note": None, "infinity": None, "interval": ends}},
            "headline": {"fid (classifier)": fid}, "curve": curve}
