"""What the page and the exports show of many samplings."""

import csv
import re
from io import StringIO

import h5py
import numpy as np
import pytest
from finished_study import finish
from sampled_study import CHAINS, chains, entry, evaluation, guided

from jobs.data.dataset import open_data
from jobs.report.exports import as_csv, as_json
from jobs.report.page.samplings_panels import evaluations_panels, guidance_panels
from jobs.report.page.samplings_section import samplings_blocks
from jobs.report.samplings.entries import sampled
from jobs.report.samplings.shown import PICTURES, to_show
from jobs.report.samplings.ways import ways_of
from jobs.report.study import read_study
from jobs.report.write import report
from jobs.storage.files import write_json

RESPACINGS = ["20", "5"]


@pytest.fixture
def run(make_run):
    """A finished run whose spec has the shorter chains of ancestral sampling and ddim, with samples of each."""
    run = make_run(f"evaluate.respacings=[{','.join(RESPACINGS)}]")
    finish(run, 1.0)
    write_json(run.evaluation, evaluation([*chains(), *guided()]))
    return run


def test_the_section_has_the_verdict_the_charts_and_a_row_for_each_sampling(run):
    study = read_study(run.path.parent)
    bullets, over, heading, by_scale, *_ = samplings_blocks(study)
    assert [text.partition(" ")[0] for text in bullets.texts] == ["The", "Rejected:"]
    assert "heun, quad4 (7 evaluations), FID 1.300 ± 0.060, 0.300 above the full chain's" in bullets.texts[1]
    assert len(over.svgs) == 3 and heading.text == "Guidance: autoguidance" and len(by_scale.svgs) == 2
    table = next(block for block in samplings_blocks(study) if block.macro == "table")
    assert len(table.rows) == len(CHAINS) + len(guided())
    [marked] = table.marked
    assert table.rows[marked][0].text == "unipc, logsnr8"
    heads = [head.text for head in table.heads]
    assert heads == ["sampling", "evaluations", "fid", "precision", "recall", "label seen", "beside the full chain",
                     "wall time", "wall time"]
    assert [row[heads.index("beside the full chain")].text for row in table.rows[:8]] == [
        "the full chain", "as good", "rejected", "as good", "rejected", "the cheapest as good", "rejected", "rejected"]
    assert table.rows[0][1].value == 40 and table.rows[-1][1].value == 80


def test_one_sampling_makes_no_section(make_run):
    run = make_run()
    finish(run, 1.0)
    write_json(run.evaluation, evaluation(chains()[:1]))
    study = read_study(run.path.parent)
    assert samplings_blocks(study) == [] and '<section id="samplings">' not in report(run.path.parent).read_text()


def test_each_family_is_a_line_with_its_name_and_the_full_chain_is_marked(run):
    study = read_study(run.path.parent)
    fid = evaluations_panels(study.comparisons)[0]
    words = set(re.findall(r">([^<>]+)</text>", fid))
    assert {"ancestral", "ddim", "unipc logsnr", "heun quad", "the full chain (ancestral)"} <= words
    assert "network evaluations for one sample" in words
    shares = guidance_panels([line for line in study.guided if line.kind == "classifier"])[1]
    words = set(re.findall(r">([^<>]+)</text>", shares))
    assert {"precision", "recall", "label seen", "without guidance", "guidance scale (0: none)"} <= words


def test_pictures_of_each_sampling_whose_samples_are_there(run):
    write_json(run.evaluation, evaluation(chains()))
    for entry_ in sampled([read_study(run.path.parent).runs[0]], {}):
        folder = entry_.folder
        if folder and folder != run.samples:
            folder.mkdir()
            with h5py.File(folder / "samples.h5", "w") as file:
                file["images"], file["labels"] = open_data("digits-test", 8, 1).images[:10], np.arange(10)
    page = report(run.path.parent).read_text()
    assert "<h3>Samples by sampling</h3>" in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    # unipc and heun are not in the spec, so nobody knows their folders.
    assert [caption.partition(": a row")[0] for caption in captions[1:5]] == ["main", "20 steps", "5 steps", "ddim, 5 steps"]
    assert all("a row for each class (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)" in caption for caption in captions[1:5])


def test_of_many_samplings_those_that_tell_have_pictures(make_run):
    run = make_run()
    finish(run, 1.0)
    others = [entry("ddim", str(steps), steps, steps, {"fid": 2.0}, {"fid": 0.1}) for steps in range(10, 38)]
    write_json(run.evaluation, evaluation([*chains(), *others]))
    study = read_study(run.path.parent)
    names = [one.name for one in to_show(study.runs[0], study.ways, study.comparisons)]
    assert len(names) == PICTURES and names[0] == "main" and "unipc, logsnr8" in names
    everything = ways_of(sampled(study.runs, {}))
    assert [one.name for one in to_show(study.runs[0], {"": everything[""][:3]}, [])] == ["main", "20 steps", "5 steps"]


def test_the_exports_have_every_sampling_by_name(run):
    study = read_study(run.path.parent)
    [verdict] = as_json(study)["samplings"]
    assert (verdict["full_chain"], verdict["cheapest"], len(verdict["ways"])) == ("main", "unipc, logsnr8", len(CHAINS))
    assert {way["name"]: way["as_good"] for way in verdict["ways"]}["heun, quad4"] is False
    rows = [row for row in csv.DictReader(StringIO(as_csv(study))) if row["table"] == "curve"]
    found = {row["quantity"]: float(row["value"]) for row in rows}
    assert len(found) == len(rows)  # no two rows have one name
    assert found["fid heun quad4 4 steps"] == 1.3 and found["evaluations heun quad4 4 steps"] == 7
    assert found["fid ancestral 40 steps, guidance classifier 4"] == pytest.approx(0.9 + 2.4 ** 2 / 9)
    assert found["fid low of 95 % ddim 10 steps"] == pytest.approx(0.99)


@pytest.mark.parametrize("damage", [{"differs": 3}, {"intervals": {"fid": "x"}}, {"evaluations": "many"}, {"intervals": 7},
                                    {"differs": {"guidance": 5}}, {"differs": {"guidance": {"scale": "x"}}}])
def test_a_damaged_entry_is_a_remark_or_left_out(run, damage):
    write_json(run.evaluation, evaluation([*chains(), chains()[1] | damage]))
    assert "<h1>small</h1>" in report(run.path.parent).read_text()
