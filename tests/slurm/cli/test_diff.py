"""`iddpm diff`: every kind of difference between two runs is told, and nothing else."""

import pytest

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.storage.files import read_json, write_json
from slurm.cli.diff import differences, print_diff
from slurm.launch.records import Submission, record


@pytest.fixture
def pair(make_run):
    """Two runs of the same spec, code and packages, in two studies."""
    runs = make_run(folder="one"), make_run(folder="two")
    for run in runs:
        write_json(run.path / "data.json", {"images": 1500, "sha256": "ab" * 32})
    return runs


def evaluated(run: RunDir, fid: float) -> None:
    write_json(run.evaluation, {"headline": {"fid (pixels)": fid}, "weights_sha256": "cd" * 32})


def change(run: RunDir, name: str, **facts) -> None:
    write_json(run.path / name, read_json(run.path / name) | facts)


def test_nothing_differs_and_that_is_said(pair, capsys):
    assert list(differences(*pair)) == []
    print_diff(pair[0].path, pair[1].path)
    text = capsys.readouterr().out
    assert "Nothing differs" in text and "Neither has been evaluated" in text


def test_the_spec_by_dotted_key_with_both_values(make_run):
    one, two = make_run(folder="one"), make_run("train.lr=2e-3", "model.channel_mult=[1,1]", folder="two")
    assert list(differences(one, two)) == [("model.channel_mult", [1, 2], [1, 1]), ("train.lr", 0.001, 0.002)]


def test_the_weights_that_training_started_from(pair):
    change(pair[1], "provenance.json", init_from={"file": "w.pt", "sha256": "ab" * 32})
    assert list(differences(*pair)) == [("start weights: sha256", None, "abababababab")]


def test_code_packages_and_data(pair):
    one, two = pair
    change(two, "provenance.json", commit="f" * 40, dirty_patch="+x", packages={"torch": "9.9", "numpy": "1.0"}, python="3.99")
    change(one, "provenance.json", commit="e" * 40, dirty_patch=None, packages={"torch": "9.8", "numpy": "1.0"}, python="3.99")
    write_json(two.path / "data.json", {"images": 1400, "sha256": "ef" * 32})
    found = {row[0]: row[1:] for row in differences(one, two)}
    assert found["code: commit"] == ("e" * 12, "f" * 12) and found["code: uncommitted"][0] is None
    assert found["package: torch"] == ("9.8", "9.9") and found["data: images"] == (1500, 1400)
    assert found.keys() == {"code: commit", "code: uncommitted", "package: torch", "data: images", "data: sha256"}
    change(one, "provenance.json", commit="f" * 40, dirty_patch="+y", packages={"torch": "9.9", "numpy": "1.0"})
    assert {"code: uncommitted", "data: images", "data: sha256"} == {row[0] for row in differences(one, two)}


def test_the_snapshot_that_each_stage_ran_last(pair):
    one, two = pair
    for run, code in ((one, "aaa"), (two, "bbb")):
        record(run.path.parent, Submission("first", "train", [run.path.name], 1.0, "1", code="old"))
        record(run.path.parent, Submission("again", "train", [run.path.name], 2.0, "2", code=code))
        record(run.path.parent, Submission("refused", "train", [run.path.name], 3.0, None, code=f"{code}{code}"))
        record(run.path.parent, Submission("another", "sample", ["other"], 4.0, "3", code=code))
    assert list(differences(one, two)) == [("code: train", "aaa", "bbb")]


def test_metrics_stand_side_by_side(pair, capsys):
    evaluated(pair[0], 12.25)
    evaluated(pair[1], 9.5)
    print_diff(pair[0].path, pair[1].path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fid", "(pixels)", "12.25", "9.5"] in rows and ["weights", "cd" * 6, "cd" * 6] in rows
    pair[1].evaluation.unlink()
    print_diff(pair[0].path, pair[1].path)
    assert ["fid", "(pixels)", "12.25", "-"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_what_is_no_run_is_refused(pair, tmp_path):
    with pytest.raises(UserError, match="not a run's directory"):
        print_diff(pair[0].path, tmp_path)


def test_a_damaged_file_is_named_and_is_no_difference(pair, capsys):
    (pair[1].path / "data.json").write_text("{")
    print_diff(pair[0].path, pair[1].path)
    text = capsys.readouterr().out
    assert "Nothing else differs." in text and f"{pair[1].path / 'data.json'}: not valid JSON" in text


def test_further_samplings_stand_side_by_side_by_name(pair, capsys):
    for run, fid in zip(pair, (5.0, 4.0), strict=True):
        evaluated(run, fid)
        curve = [{"differs": {}, "metrics": {"fid": fid}}, {"differs": 5, "metrics": {"fid": 1.0}},
                 {"differs": {"sampler": "ddim", "timestep_respacing": "10"}, "metrics": {"fid": fid + 0.25, "kid": 0.1}}]
        change(run, "evaluation.json", curve=curve)
    print_diff(pair[0].path, pair[1].path)
    rows = {line.split("  ")[1].strip() for line in capsys.readouterr().out.splitlines() if "fid" in line}
    assert any(row.startswith("fid: ddim, 10 steps") for row in rows) and len(rows) == 2
