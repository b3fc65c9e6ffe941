"""The section with pictures: samples, strips from data to noise and back, nearest training images."""

from collections.abc import Iterator, Sequence

from jobs.data.dataset import ImageData
from jobs.report.diffusion_facts import setting_of
from jobs.report.memorisation import by_chance, in_words
from jobs.report.page.blocks import Block, Bullets, Cell, Heading, Paragraph, Pictures, Row, Table
from jobs.report.page.pictures import (
    Picture,
    denoising_picture,
    given_picture,
    neighbours_picture,
    noising_picture,
    samples_picture,
)
from jobs.report.run import RunReport
from jobs.report.samplings.shown import to_show
from jobs.report.study import StudyReport


def pictures_blocks(study: StudyReport) -> list[Block]:
    runs, data = study.shown, study.data
    near = [picture for run in runs if run.name in data and (picture := neighbours_picture(run, data[run.name]))]
    return [
        *_titled("Samples",
                 [samples_picture(run, data[run.name].class_names if run.name in data else []) for run in runs],
                 "The same place has the same noise at the start in every run of one kind with the same sample.seed, "
                 "sample.batch_size and image size."),
        *_titled("Small images and what was made of them", [given_picture(run) for run in runs],
                 "Each small image, of which the sample below was made."),
        *_by_sampling(study, data),
        *_titled("From data to noise", [noising_picture(run, data[run.name]) for run in _schedules(runs, data)],
                 "The forward process of the first training image, with the same noise each time."),
        *_titled("From noise to a sample", [denoising_picture(run, study.logs.get(run.name)) for run in runs],
                 "Quick samples (at most 50 steps of DDIM) that training drew when it saved last."),
        *_titled("Nearest training images", near,
                 "Above the first samples, below the training images nearest to them in pixel space (root mean square over "
                 "pixels)."),
        *_memorisation(study)]


def _memorisation(study: StudyReport) -> list[Block]:
    found = study.memorised
    if not found:
        return []
    rows: list[Row] = [[name, *(Cell(f"{value:.1f}", value=value) for value in (one.distance, one.unseen)),
                        Cell(f"{100 * one.nearer:.0f} %", by_chance(one), one.nearer),
                        Cell(f"{one.nearest} of {one.samples}", value=one.nearest)]
                       for name, one in found.items()]
    return [Heading("Memorisation"), Bullets([in_words(name, one) for name, one in found.items()]),
            Table(["run", Cell("samples", "median distance to a training image"), Cell("unseen images", "the same"),
                   Cell("sample is nearer", "of pairs"), Cell("nearer than all", "unseen images")], rows),
            Paragraph(f"Distances are in grey levels of 255, root mean square over pixels, to the nearest training image. "
                      f"Unseen: {'; '.join(dict.fromkeys(one.whose for one in found.values()))}. Blurred images lie near to many "
                      "others without copying any.", "note")]


def _by_sampling(study: StudyReport, data: dict[str, ImageData]) -> Iterator[Block]:
    """Samples of one run by several samplings, beside each other: of the main run, or else of the first that has several."""
    several = ((run, entries) for run in [study.main, *study.shown]
               if run and len(entries := to_show(run, study.ways, study.comparisons)) > 1)
    run, entries = next(several, (None, []))
    if run is None:
        return
    names = data[run.name].class_names if run.name in data else []
    pictures = [samples_picture(run, names, folder, entry.name) for entry in entries if (folder := entry.folder)]
    if len([picture for picture in pictures if picture]) < 2:
        return
    of = f" of {run.name}" if len(study.runs) > 1 else ""
    yield from _titled(f"Samples{of} by sampling", pictures, "Weights of one training, and equal noise at the start where "
                                                           "the batch size is equal. The table of samplings has all.")


def _titled(title: str, pictures: Sequence[Picture | None], note: str) -> Iterator[Block]:
    """Pictures with a heading and a note; nothing where there are no pictures."""
    shown = [picture for picture in pictures if picture]
    if shown:
        yield from (Heading(title), Pictures(shown), Paragraph(note, "note"))


def _schedules(runs: list[RunReport], data: dict[str, ImageData]) -> list[RunReport]:
    """One run with data for each data set and noise schedule."""
    settings = [(run, setting_of(run.spec)) for run in runs if run.name in data]
    return list({(run.known_spec.data.path, setting.noise_schedule, setting.diffusion_steps): run
                 for run, setting in settings if setting}.values())
