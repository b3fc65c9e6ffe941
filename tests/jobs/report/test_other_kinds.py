"""The report of runs without the sections `model` and `diffusion`: the panels that need these sections are left out."""

import ast

import linear_kind
import pytest
from finished_study import finish
from linear_kind import LinearSpec
from paths import ROOT

from jobs.report.study import read_study
from jobs.report.write import report
from jobs.run.directory import RunDir
from jobs.spec.fields import Section
from jobs.spec.kinds import KINDS
from jobs.spec.sections import Evaluate, Sample, Train
from jobs.storage.files import read_json, write_json

DIFFUSION_ONLY = {"diffusion", "model", "diffusion_steps", "noise_schedule", "learn_sigma", "nll_data", "nll_examples",
                  "respacings"}


def common(section: type[Section], values: Section) -> Section:
    """Return the keys of a section that all kinds share."""
    return section(**{name: getattr(values, name) for name in section.model_fields})


@pytest.fixture
def study_of_another_kind(runs, monkeypatch):
    """Two runs that leave what a kind without a chain leaves. Their specs have the sections that all kinds share."""
    def of_another_kind(run: RunDir) -> LinearSpec:
        spec = known[run.path.name]
        return LinearSpec(name=spec.name, kind="linear", data=spec.data, train=common(Train, spec.train),
                          sample=common(Sample, spec.sample), evaluate=common(Evaluate, spec.evaluate), resources=spec.resources)

    monkeypatch.setitem(KINDS, *linear_kind.ADD)
    known = {run.path.name: run.spec for run in runs}
    monkeypatch.setattr(RunDir, "spec", property(of_another_kind))
    for index, run in enumerate(runs[:2]):
        finish(run, 5.0 + index)
        (run.path / "bits_per_dim.npz").unlink()
        evaluation = read_json(run.evaluation)
        del evaluation["bits_per_dim"], evaluation["headline"]["bits/dim"]
        evaluation["curve"] = [{"step": step, "samples": 10, "metrics": {"fid": 1.0 / step}} for step in (12, 8)]
        write_json(run.evaluation, evaluation)
    return runs[0].path.parent


def test_a_study_of_another_kind_has_a_report_without_the_panels_of_diffusion(study_of_another_kind):
    page = report(study_of_another_kind).read_text(encoding="utf-8")
    assert [run.remarks for run in read_study(study_of_another_kind).runs] == [[], [], [], []]
    for section in ("runs", "effects", "training", "curves", "pictures", "reproduce"):
        assert f'<section id="{section}">' in page, section
    for section in ("likelihood", "published"):
        assert f'<section id="{section}">' not in page, section
    assert "From data to noise" not in page and "DDIM. Filled" not in page
    assert "fid over training" in page and "fid over sampling steps" not in page
    assert read_json(study_of_another_kind / "report.json")["published"] == []
    assert ",curve,fid 1 steps,8,0.125" in (study_of_another_kind / "report.csv").read_text()


def test_a_single_run_of_another_kind_has_a_question(study_of_another_kind):
    known = read_json(study_of_another_kind / "study.json")
    name, entry = next(iter(known["runs"].items()))
    write_json(study_of_another_kind / "study.json", known | {"runs": {name: entry}})
    assert read_study(study_of_another_kind).question == (
        "How good is this model on digits (8x8, 1 channel, 10 classes), after 12 iterations of batch 12?")


def test_one_file_alone_reads_the_sections_of_a_diffusion_model():
    for file in (ROOT / "jobs" / "report").rglob("*.py"):
        if file.name == "diffusion_facts.py":
            continue
        read = {(node.value.id if isinstance(node.value, ast.Name) else "", node.attr)
                for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        # A published row and a Setting have attributes of the same names.
        assert not {name for owner, name in read if owner not in ("row", "self", "setting")} & DIFFUSION_ONLY, file
