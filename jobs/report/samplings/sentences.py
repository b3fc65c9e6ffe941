"""What the samplings show, in sentences: the cheapest that is as good as the full chain, what it saves, which are rejected."""

from collections.abc import Iterator, Sequence
from math import hypot

from jobs.quantities import figure
from jobs.report.diffusion_facts import chain_steps
from jobs.report.samplings.comparisons import Comparison
from jobs.report.samplings.entries import PUBLISHED_SAMPLES
from jobs.report.samplings.guided import TRADED, Guided
from jobs.report.samplings.ways import FID, Way
from jobs.report.verdicts.points import decimals
from jobs.run.progress import duration
from jobs.spec.metrics import NUMBERS

NAMED = 3  # rejected samplings that a sentence names
WIDE = 0.2  # half an interval as a share of FID, from which a pass says little


def verdicts(found: Sequence[Comparison]) -> list[str]:
    """Return which sampling is the cheapest as good as the full chain, and what that saves, for each comparison that tells."""
    return [sentence for comparison in found if (sentence := _verdict(comparison))]


def rejections(found: Sequence[Comparison]) -> list[str]:
    """Return which samplings are worse than the full chain, for each comparison that has such."""
    return [sentence for comparison in found for sentence in _rejections(comparison)]


def unknown(found: Sequence[Comparison]) -> list[str]:
    """Return why comparisons give no verdict, each reason once."""
    return list(dict.fromkeys(sentence for comparison in found for sentence in _unknown(comparison)))


def guidance_verdicts(lines: Sequence[Guided]) -> list[str]:
    """Return at which scale of each kind of guidance FID is lowest, beside no guidance, and what becomes of the other metrics."""
    return [sentence for line in lines if (sentence := _guided(line))]


def _guided(line: Guided) -> str:
    """Empty where the sampling without guidance, or all FIDs, are missing."""
    measured, without = [(value, way) for way in line.ways if (value := way.value(FID)) is not None], line.unguided
    plain = without.value(FID) if without else None
    if not measured or without is None or plain is None:
        return ""
    lowest, best = min(measured, key=lambda pair: pair[0])
    title = f"Guidance of kind {line.kind}" + (f" ({line.name})" if line.name else "")
    if lowest >= plain:
        return f"{title}: at no scale is FID lower than without guidance, {_fid(without)}."
    noise = "more than the error" if plain - lowest > hypot(best.error(FID) or 0, without.error(FID) or 0) else "within the error"
    others = [f"{NUMBERS[key].label} is {ours:.3f} instead of {theirs:.3f}" for key in TRADED
              if (ours := best.value(key)) is not None and (theirs := without.value(key)) is not None]
    return (f"{title}: FID is lowest at scale {best.first.guidance['scale']:g}, {_fid(best)} against {_fid(without)} without "
            f"guidance, which is {noise}." + (f" There {', '.join(others)}." if others else ""))


def _about(comparison: Comparison) -> str:
    return f"{comparison.title}: " if comparison.title else ""


def _verdict(comparison: Comparison) -> str:
    """Empty where there is nothing to compare."""
    full, cheapest = comparison.full, comparison.cheapest
    if full is None or not comparison.shorter or comparison.undecided:
        return ""
    if cheapest is None:
        return (f"{_about(comparison)}No cheaper sampling has an FID within its interval of the full chain's, {_fid(full)} "
                f"({full.described}).")
    return _about(comparison) + _best(comparison, cheapest, full)


def _unknown(comparison: Comparison) -> Iterator[str]:
    measured = [way for way in comparison.ways if way.value(FID) is not None]
    spec = comparison.ways[0].first.run.spec
    steps = chain_steps(spec) if spec else None
    if len(measured) > 1 and comparison.full is None and steps:
        yield (f"No sampling goes along the full chain of {steps:,} steps, so nothing tells which shorter one is as good. Add "
               '{timestep_respacing: ""} to evaluate.samplings.')
    if any((gap := comparison.gap(way)) and gap[1] for way in comparison.undecided):
        yield (f"{_about(comparison)}No shorter chain is called as good as the full chain: the 95 % intervals of FID are wider "
               "than FID itself. More samples (sample.num_samples) would tell.")
    elif comparison.undecided:
        yield ("FID of the shorter chains has no interval, which needs 20 samples, so none is called as good as the full chain. "
               "Evaluations by an earlier version lack it: evaluate again.")


def _rejections(comparison: Comparison) -> Iterator[str]:
    rejected = [way for way in comparison.shorter if comparison.passes(way) is False]
    if rejected:
        # The dearest tell most: a chain of so many evaluations still is too short.
        named = sorted(rejected, key=lambda way: -way.evaluations)[:NAMED]
        more = f"; and {len(rejected) - NAMED} more" if len(rejected) > NAMED else ""
        yield f"{_about(comparison)}Rejected: {'; '.join(_rejected(comparison, way) for way in named)}{more}."


def _best(comparison: Comparison, way: Way, full: Way) -> str:
    text = (f"The cheapest sampling as good as the full chain is {way.described}: {way.evaluations:,} network evaluations a "
            f"sample, FID {_fid(way)}. The full chain ({full.first.point.sampler}: {full.evaluations:,} evaluations) has "
            f"{_fid(full)}. {_saving(way, full)}")
    gap, value = comparison.gap(way), full.value(FID)
    if gap and gap[1] and value and gap[1] / value > WIDE:
        text += f" The interval is wide, ± {100 * gap[1] / value:.0f} % of FID: more samples may decide otherwise."
    return text


def _fid(way: Way) -> str:
    value, error = way.value(FID), way.error(FID)
    if value is None:
        return "?"
    return f"{value:,.{decimals(error)}f} ± {error:,.{decimals(error)}f}" if error else figure(value)


def _saving(way: Way, full: Way) -> str:
    """What the shorter chain saves: of evaluations, and of hours where they were measured."""
    share = f"{100 * (1 - way.evaluations / full.evaluations):.3g} % of the evaluations"
    samples = way.first.run.samples
    if way.seconds is None or full.seconds is None or not samples:
        return (f"It saves {share}; hours are not known, because no finished sampling stage was timed and there is no "
                "bench-*.json of such a machine.")
    how = "as the samples were drawn" if way.first.measured else "planned by the newest bench-*.json"
    counts = dict.fromkeys([samples, PUBLISHED_SAMPLES])
    each = [_hours(way.seconds * count / samples, full.seconds * count / samples, count) for count in counts]
    return f"It saves {' and '.join(each)}: {share}; wall time {how}."


def _hours(seconds: float, whole: float, samples: int) -> str:
    """What is saved for so many samples: "125 hours for 50,000 samples (9:23 instead of 125:02:00)"."""
    saved = (whole - seconds) / 3600
    figures = f"{saved:,.0f}" if saved >= 1000 else f"{saved:.3g}"
    return f"{figures} hours for {samples:,} samples ({duration(seconds)} instead of {duration(whole)})"


def _rejected(comparison: Comparison, way: Way) -> str:
    found = comparison.gap(way)
    gap, error = found if found else (0.0, None)
    places = decimals(error) if error else 3
    return (f"{way.described} ({way.evaluations:,} evaluations), FID {_fid(way)}, {gap:,.{places}f} above the full chain's")


def noise(found: Sequence[Comparison]) -> list[str]:
    """Return what a reader must know of the noise behind the verdicts."""
    if not any(comparison.full and comparison.shorter for comparison in found):
        return []
    return ["As good as the full chain: FID lies within its own 95 % interval (the jackknife's) of the full chain's FID, or "
            "below. All samplings have equally many samples, so the upward bias of few samples is about the same in each FID and "
            "cancels. Noise does not cancel: with few samples intervals are wide and pass more. They shrink with the square root "
            "of the number of samples, so a chain that passes here may fail with more samples.",
            "Evaluations count every pass of a network for one sample, those of guidance too. Hours are those that the chunks of "
            "each sampling took; where an earlier version did not record these, a share of the time of the sampling stage, by "
            "evaluations, in which an evaluation of a guide counts by the FLOP of the guide's own network."]


def time_for(way: Way, samples: int | None = None) -> str:
    """Wall time of the run's samples, or of `samples`."""
    own = way.first.run.samples
    if way.seconds is None or not own:
        return ""
    return duration(way.seconds * (samples / own if samples else 1))
