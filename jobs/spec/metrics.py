"""The numbers that evaluation.json reports of samples, by their key. A login node reads them without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """One number in evaluation.json."""

    label: str
    """The name in tables."""
    higher_is_better: bool = False


NUMBERS: dict[str, Number] = {
    "fid": Number("fid"),
    "sfid": Number("sfid"),
    "inception_score": Number("inception score", higher_is_better=True),
    "precision": Number("precision", higher_is_better=True),
    "recall": Number("recall", higher_is_better=True),
    "kid": Number("kid"),
}
HIGHER_IS_BETTER: frozenset[str] = frozenset(key for key, number in NUMBERS.items() if number.higher_is_better)
