"""Numbers for people, and times as people write them."""

import math
import re
from collections.abc import Sequence

_WALL_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<day_hours>\d+)(?::(?P<day_minutes>\d+)(?::(?P<day_seconds>\d+))?)?"
                        r"|(?:(?P<hours>\d+):(?=\d+:))?(?P<minutes>\d+)(?::(?P<seconds>\d+))?)", re.ASCII)


def wall_time_s(text: str) -> int | None:
    """Seconds of a time in one of SLURM's forms (sbatch --time), None where `text` has none of them.

    The forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, days-hours:minutes:seconds.
    """
    found = _WALL_TIME.fullmatch(text) if len(text) <= 32 else None
    if found is None:
        return None
    part = {name: int(digits or 0) for name, digits in found.groupdict().items()}
    return (part["days"] * 86400 + (part["day_hours"] + part["hours"]) * 3600 + (part["day_minutes"] + part["minutes"]) * 60
            + part["day_seconds"] + part["seconds"])


def clock(seconds: float) -> str:
    """h:mm:ss, such as 24:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def amount(number: float) -> str:
    """Three digits with a unit letter: 16.8 G."""
    for factor, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= 0.9995 * factor:  # three digits would round up to the next unit
            return f"{number / factor:.3g} {letter}"
    return f"{number:,.0f} "


def size(number: float) -> str:
    """Bytes: 1.5 GiB."""
    for factor, unit in ((2 ** 40, "TiB"), (2 ** 30, "GiB"), (2 ** 20, "MiB"), (2 ** 10, "KiB")):
        if number >= factor:
            return f"{three_digits(number / factor)} {unit}"
    return f"{number:.0f} B"


def figure(value: float | None) -> str:
    """Four digits, without an exponent if possible: 0.01234, 12,345. None, infinity and NaN give an en dash."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"


def three_digits(value: float) -> str:
    """Three digits, or all digits before the point: 2.41, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def span(*seconds: float) -> str:
    """Three digits and a unit: 2.5 h, or 2.41–2.6 h for two times."""
    unit_s, unit = next(((unit_s, unit) for unit_s, unit in ((3600, "h"), (60, "min")) if max(seconds) >= unit_s), (1, "s"))
    return f"{'–'.join(three_digits(value / unit_s) for value in seconds)} {unit}"


def count_span(low: int, high: int) -> str:
    """2–3, or 2 where both ends are equal."""
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def one_of(names: Sequence[str]) -> str:
    """a, b or c."""
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
