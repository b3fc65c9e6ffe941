"""What the families of a study show side by side, in sentences: quality, its price, diversity, likelihood."""

from collections.abc import Iterator, Sequence
from math import hypot

from jobs.quantities import figure
from jobs.report.evaluation import Metric
from jobs.report.families.members import Member
from jobs.report.samplings.ways import FID, Way
from jobs.report.verdicts.points import decimals
from jobs.spec.kinds import kind_of
from jobs.spec.metrics import NUMBERS

BOUNDS = {"bits_per_dim": "variational bound", "elbo_bits_per_dim": "ELBO"}
"""Numbers of kinds that bound the negative log-likelihood of 8-bit images from above, in bits/dim, by key."""
SHARES = ("recall", "precision", "label_accuracy")
MEANS = {"recall": "the share of real images near to samples: diversity",
         "precision": "the share of samples near to real images: fidelity",
         "label_accuracy": "the share of samples of the requested class"}


def families_question(members: Sequence[Member]) -> str:
    data = members[0].spec.data
    names = ", ".join(named(member) for member in members)
    classes = f", {data.num_classes} classes" if data.class_cond else ""
    return (f"{len(members)} models learn the images of {data.path} ({data.image_size}x{data.image_size}{classes}): {names}. "
            "Which one draws the best samples, and what does that cost?")


def named(member: Member) -> str:
    """Return "gan (GAN)", or the title alone where the setting has that name."""
    return member.title if member.name.lower() == member.title.lower() else f"{member.name} ({member.title})"


def families_answer(members: Sequence[Member]) -> list[str]:
    """Return the sentences that the numbers support; nothing where no member has been evaluated."""
    measured = sorted((member for member in members if member.best), key=lambda member: _fid(member)[0])
    if not measured:
        return []
    return [*_quality(measured), *_price(measured), *_shares(members), *likelihood(members)]


def _fid(member: Member) -> tuple[float, float | None]:
    """FID of the member's best way, and half of its 95 % interval."""
    assert member.best is not None
    value = member.best.value(FID)
    assert value is not None
    return value, member.best.error(FID)


def fid_text(way: Way) -> str:
    value, error = way.value(FID), way.error(FID)
    if value is None:
        return "–"
    return f"{value:,.{decimals(error)}f} ± {error:,.{decimals(error)}f}" if error else figure(value)


def evaluations_text(number: int) -> str:
    return f"{number:,} evaluation{'' if number == 1 else 's'}"


def _quality(best_first: Sequence[Member]) -> Iterator[str]:
    each = [f"{member.name} {fid_text(way)} ({evaluations_text(way.evaluations)})"
            for member in best_first if (way := member.best)]
    text = f"FID, lower is better, each at its best sampling: {', '.join(each)}."
    first, alike = best_first[0], []
    value, error = _fid(first)
    for other in best_first[1:]:
        gap, its = _fid(other)[0] - value, _fid(other)[1]
        if error is not None and its is not None and gap <= hypot(error, its):
            alike.append(other.name)
    if alike:
        text += f" The intervals do not tell {first.name} from {_joined(alike)}."
    yield text


def _joined(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _price(best_first: Sequence[Member]) -> Iterator[str]:
    """What a sample costs: the quickest, against the best of each slower member."""
    timed = sorted(((way.process_seconds, member, way) for member in best_first
                    if (way := member.best) and way.process_seconds), key=lambda each: each[0])
    if not timed:
        return
    (least, quickest, _), (most, slowest, way) = timed[0], timed[-1]
    if most >= 1.5 * least:
        yield (f"A sample takes {seconds_text(least)} of one process by {quickest.name}, and {seconds_text(most)} by "
               f"{slowest.name} at its best ({evaluations_text(way.evaluations)}): {figure_of(most / least)} times as long.")


def seconds_text(seconds: float) -> str:
    """Three digits with a unit: 12.3 ms."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * factor:
            return f"{figure_of(seconds / factor)} {unit}"
    return f"{seconds:.3g} s"


def figure_of(value: float) -> str:
    """Return two or three digits: 1,230, 45, 3.1."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 99.95 else f"{value:.3g}"


def _shares(members: Sequence[Member]) -> Iterator[str]:
    """Diversity, fidelity and the class, of each member at its best sampling by FID."""
    for key in SHARES:
        found = sorted(((value, member.name) for member in members
                        if member.best and (value := member.best.value(key)) is not None), reverse=True)
        if len(found) > 1:
            label, places = NUMBERS[key].label, 3 if found[0][0] >= 0.95 else 2  # 0.996 is not 1
            each = ", ".join(f"{name} {value:.{places}f}" for value, name in found)
            yield f"{label[:1].upper()}{label[1:]} ({MEANS[key]}), at these samplings: {each}."


def likelihood(members: Sequence[Member]) -> list[str]:
    """Return how bounds on the likelihood compare; members without a bound are named."""
    known = [(metric, member) for member in members if (metric := bound_of(member))]
    if not known:
        return []
    each = ", ".join(f"{member.name} at most {metric.text} ({BOUNDS[metric.key]})"
                     for metric, member in sorted(known, key=lambda pair: pair[0].value))
    lacking = [member for member in members if not bound_of(member) and member.ways]
    without = [member.name for member in lacking if not _has_likelihood(member)]
    unmeasured = [member.name for member in lacking if _has_likelihood(member)]
    none = f" {_joined(without)} {'have' if len(without) > 1 else 'has'} no likelihood." if without else ""
    none += f" Of {_joined(unmeasured)} no such bound was measured." if unmeasured else ""
    several = (" Each is an upper bound on the negative log-likelihood of 8-bit images, so the numbers compare, but not how far "
               "the bounds are from the truth." if len({metric.key for metric, _ in known}) > 1 else "")
    return [f"Bits/dim: {each}.{several}{none}"]


def _has_likelihood(member: Member) -> bool:
    """Whether the member's kind has any number of likelihood, measured or not."""
    return any("bits_per_dim" in key for key in kind_of(member.spec).number_labels)


def bound_of(member: Member) -> Metric | None:
    return next((metric for metric in member.point.metrics.values() if metric.key in BOUNDS), None)
