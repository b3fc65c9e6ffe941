"""A report of runs whose files are broken: each is a remark, and the rest of the study stands."""

import json
from html import unescape
from pathlib import Path

import pytest
from finished_study import evaluation, finish

from jobs.report.exports import as_json
from jobs.report.page.pictures import samples_picture
from jobs.report.study import read_study
from jobs.report.write import report
from jobs.storage.files import read_json

JUNK = {"list": b"[1, 2]", "nested": b'{"metrics": 3, "stage": [], "curve": [1], "samples": {}}',
        "binary": bytes(range(256)) * 4}
FILES = ("evaluation.json", "stages.jsonl", "bits_per_dim.npz", "failure.json", "progress.json", "provenance.json", "spec.yaml",
         "samples/samples.h5")


@pytest.mark.parametrize("junk", JUNK)
def test_a_broken_file_is_a_remark_and_nothing_more(runs, junk):
    broken, whole = runs[:2]
    finish(whole, 5.0)
    for name in FILES:
        file = broken.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(JUNK[junk])
    (broken.tensorboard).mkdir()
    (broken.tensorboard / "events.out.tfevents.1").write_bytes(JUNK[junk])
    page = report(broken.path.parent).read_text(encoding="utf-8")
    remarks = read_json(broken.path.parent / "report.json")["runs"][0]["remarks"]
    assert any(remark.startswith("spec.yaml") for remark in remarks)
    assert all(f"<li>{broken.path.name}: {remark}</li>" in unescape(page) for remark in remarks)
    assert "fid (pixels): 5 (interval 4 to 6)" in page  # the other run


@pytest.mark.parametrize("name", FILES)
def test_each_broken_file_alone(study, name):
    run = study / "noise_schedule=linear,loss=simple"
    (run / name).write_bytes(b"\x00junk")
    if name == "failure.json":
        (run / "evaluation.json").unlink()
    read = read_study(study).runs[0]
    samples_picture(read, [])
    remarks = read.remarks
    assert [remark for remark in remarks if Path(name).name in remark], remarks
    assert all(str(study) not in remark for remark in remarks)


def test_numbers_that_are_none_stay_away(study):
    file = study / "noise_schedule=linear,loss=simple" / "evaluation.json"
    text = json.dumps(evaluation(1.0, 2.0)).replace('"value": 1.0', '"value": NaN').replace('"fid": 1.', '"fid": "x", "y": 1.')
    file.write_text(text)
    facts = json.loads(json.dumps(as_json(read_study(study))), parse_constant=pytest.fail)
    assert set(facts["runs"][0]["metrics"]) == {"precision (pixels)", "kid (pixels)", "bits/dim"}
