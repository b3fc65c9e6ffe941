"""The report of a study of several families of models: DDPM, IDDPM and the second kind of the tests, as runs leave them."""

import csv
import json
import re
from pathlib import Path

import h5py
import linear_kind
import pytest
from finished_study import finish
from small_runs import SMALL_SPEC

from jobs.data.dataset import open_data
from jobs.report.memorisation import COMPARED
from jobs.report.study import read_study
from jobs.report.write import report
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json

COMMON = {key: SMALL_SPEC[key] for key in ("name", "data", "resources")}
OWN = {key: value for key, value in SMALL_SPEC.items() if key not in COMMON}
CHAINS = [{"timestep_respacing": ["10", "4"]}, {"sampler": "ddim", "timestep_respacing": "10"}]
EVALUATE = OWN["evaluate"] | {"respacings": [], "samplings": CHAINS}
TRAIN = {key: value for key, value in OWN["train"].items() if key not in ("schedule_sampler", "label_dropout")}
POINTS = [
    {"name": "autoencoder", "kind": "linear", "train": TRAIN | {"lr": 0.05},
     "sample": {"num_samples": 10, "batch_size": 4, "ema_rate": 0.9}},
    {"name": "ddpm", "kind": "diffusion", **OWN, "diffusion": {"diffusion_steps": 40, "loss": "simple"}, "evaluate": EVALUATE},
    {"name": "iddpm", "kind": "diffusion", **OWN, "diffusion": {"diffusion_steps": 40, "loss": "hybrid"}, "evaluate": EVALUATE}]
FIDS = {"autoencoder": {"": 9.0}, "ddpm": {"": 2.0, "10": 2.2, "4": 6.0, "ddim": 3.0},
        "iddpm": {"": 1.9, "10": 1.95, "4": 3.0, "ddim": 2.5}}
HALF = 0.2


def curve_of(name: str) -> list[dict]:
    """Entries as the evaluation writes them: a main one, an earlier step, and shorter chains of the diffusion models."""
    def entry(fid: float, evaluations: int, step: int = 12, **differs) -> dict:
        chain = {} if name == "autoencoder" else {"sampler": differs.get("sampler", "ancestral"),
                                                  "timestep_respacing": differs.get("timestep_respacing", "")}
        return {"step": step, **chain, "sampling_steps": evaluations, "evaluations": evaluations, "differs": differs,
                "samples": 10, "intervals": {"fid": [fid - HALF, fid + HALF]},
                "metrics": {"fid": fid, "precision": 0.9 - fid / 20, "recall": 0.8 - fid / 20, "label_accuracy": 0.99}}
    fids = FIDS[name]
    if name == "autoencoder":
        return [entry(fids[""], 20), entry(20.0, 20, step=8)]
    return [entry(fids[""], 40), entry(20.0, 40, step=8), entry(fids["10"], 10, timestep_respacing="10"),
            entry(fids["4"], 4, timestep_respacing="4"), entry(fids["ddim"], 10, sampler="ddim", timestep_respacing="10")]


def leave(run: RunDir, copies: bool = False) -> None:
    """Leave the files of a finished run. `copies`: its samples are training images."""
    name = run.path.name
    finish(run, FIDS[name][""])
    found = read_json(run.evaluation) | {"curve": curve_of(name)}
    if name == "autoencoder":
        (run.path / "bits_per_dim.npz").unlink()
        del found["bits_per_dim"], found["headline"]["bits/dim"]
    write_json(run.evaluation, found)
    folders = {"": "samples"} | ({} if name == "autoencoder" else {
        "10": "samples/step-00000012,ancestral,10", "4": "samples/step-00000012,ancestral,4"})
    lines = [{"folder": folder, "step": 12, "samples": 8, "process_seconds": 0.08 / 10 ** place, "device": "cpu"}
             for place, folder in enumerate(folders.values(), name == "autoencoder")]
    run.sampling_times.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with h5py.File(run.samples_h5, "a") as file:
        file["images"][:] = open_data("digits", 8, 1).images[:10] if copies else open_data("digits-test", 8, 1).images[10:290:28]


@pytest.fixture
def families(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(KINDS, *linear_kind.ADD)
    spec = tmp_path / "families.yaml"
    spec.write_text(json.dumps(COMMON | {"train": {"iterations": 12}, "sweep": {"list": POINTS}}))
    runs = freeze(load(spec), tmp_path / "runs")
    for run in runs:
        leave(run, copies=run.path.name == "ddpm")
    return runs[0].path.parent


def test_the_families_stand_side_by_side(families):
    page, study = report(families).read_text(encoding="utf-8"), read_study(families)
    assert [run.remarks for run in study.runs] == [[], [], []] and study.effects == []
    assert study.question == ("3 models learn the images of digits (8x8, 10 classes): autoencoder (Linear autoencoder), DDPM, "
                              "IDDPM. Which one draws the best samples, and what does that cost?")
    assert study.answer[:3] == [
        "FID, lower is better, each at its best sampling: iddpm 1.90 ± 0.20 (40 evaluations), ddpm 2.00 ± 0.20 (40 evaluations), "
        "autoencoder 9.00 ± 0.20 (20 evaluations). The intervals do not tell iddpm from ddpm.",
        "A sample takes 1 ms of one process by autoencoder, and 10 ms by ddpm at its best (40 evaluations): 10 times as long.",
        "Recall (the share of real images near to samples: diversity), at these samplings: iddpm 0.71, ddpm 0.70, "
        "autoencoder 0.35."]
    assert any(sentence.startswith("ddpm: The cheapest sampling as good as the full chain") for sentence in study.answer)
    assert ("Bits/dim: ddpm at most 3 (variational bound), iddpm at most 3 (variational bound). autoencoder has no likelihood."
            in study.answer)
    for section in ("families", "models", "runs", "pictures", "cost"):
        assert f'<section id="{section}">' in page, section
    for title in ("fid (pixels) over network evaluations", "fid (pixels) over the time of a sample", "Fidelity over diversity",
                  "fid (pixels) over training time"):
        assert title in page, title
    assert "What was not fair" in page and "Parameters, of all networks that are trained: 645 (autoencoder) to " in page
    assert "FID of a family is the lowest of its samplings: 1 (autoencoder), 4 (ddpm), 4 (iddpm)." in page
    assert "L = E ‖x − D E (x + 0.1 ε)‖²" in page and page.count("L_hybrid = ") == 1


def test_the_numbers_of_families_are_in_every_file(families):
    report(families)
    found = read_json(families / "report.json")
    autoencoder, ddpm, iddpm = found["families"]
    assert (autoencoder["evaluations"], ddpm["evaluations"]) == (20, 40) and autoencoder["recall"] == pytest.approx(0.35)
    assert autoencoder["sample_seconds"] == pytest.approx(0.001) and ddpm["sample_seconds"] == pytest.approx(0.01)
    assert autoencoder["parameters"] < autoencoder["trained_parameters"] == 64 * 4 + 4 + 4 * 64 + 64 + 65
    assert ddpm["step_seconds"] == pytest.approx(12 / 24) and ddpm["training_seconds"] == 30.0
    assert iddpm["sample_flops"] == 40 * iddpm["forward_flops"]
    assert [model["title"] for model in found["models"]] == ["Linear autoencoder", "DDPM", "IDDPM"]
    rows = {(row["run"], row["table"], row["quantity"]): row["value"] for row in csv.DictReader(
        (families / "report.csv").read_text().splitlines())}
    assert rows["iddpm", "family", "fid"] == "1.9" and rows["autoencoder", "memorisation", "samples"] == "10"
    lines = (families / "report.md").read_text().splitlines()
    assert "| autoencoder | 9.00 ± 0.20 | 0.35 | 0.45 | 0.99 | – | 20 | 1 ms | 580 | 0:30 | 497,664 |" in lines
    assert [line for line in lines if line.startswith("| iddpm | diffusion | **1.9** |")]  # rows of one kind have their names


def test_copies_of_training_images_are_told_from_unseen_ones(families):
    page, study = report(families).read_text(encoding="utf-8"), read_study(families)
    copied, unseen = study.memorised["ddpm"], study.memorised["iddpm"]
    assert (copied.distance, copied.nearer, copied.nearest, copied.copies) == (0, 1, 10, True)
    assert not unseen.copies and unseen.nearest == 0 and unseen.distance > 0 and unseen.error > 0.1
    assert unseen.whose == f"{COMPARED} held-out images of digits-test"
    assert "ddpm: in 100 % of pairs of a sample and an unseen image, the sample is the nearer to a training image" in page
    assert "10 of 10 samples are nearer than every unseen image: more than chance" in page and "no sign of copies" in page


def test_a_family_without_samples_yet_has_dashes(families):
    for name in ("autoencoder", "iddpm"):
        (families / name / "evaluation.json").unlink()
    page, study = report(families).read_text(encoding="utf-8"), read_study(families)
    assert study.answer[0].startswith("FID, lower is better, each at its best sampling: ddpm 2.00")
    autoencoder, *_ = read_json(families / "report.json")["families"]
    assert autoencoder["fid"] is None and autoencoder["evaluations"] is None and autoencoder["parameters"]
    assert "| autoencoder | – | – | – | – | – | – | – | 580 |" in (families / "report.md").read_text()
    assert len(re.findall(">–</td>", page)) > 10


def test_a_crossed_sweep_of_one_kind_is_no_study_of_families(study):
    page = report(study).read_text(encoding="utf-8")
    assert read_study(study).members == [] and '<section id="families">' not in page
    assert "<h3>Memorisation</h3>" in page and read_json(study / "report.json")["families"] == []


def test_a_torn_line_of_times_is_a_remark(families):
    times = RunDir(families / "ddpm").sampling_times
    times.write_text(times.read_text() + '{"folder": "sam')
    ddpm = read_study(families).runs[1]
    assert ddpm.remarks == ["sampling.jsonl: line 4 cannot be read"] and len(ddpm.sample_seconds) == 3


def test_a_bound_that_was_not_measured_is_not_called_missing(families):
    found = read_json(families / "ddpm" / "evaluation.json")
    del found["bits_per_dim"], found["headline"]["bits/dim"]
    write_json(families / "ddpm" / "evaluation.json", found)
    assert ("Bits/dim: iddpm at most 3 (variational bound). autoencoder has no likelihood. Of ddpm no such bound was measured."
            in read_study(families).answer)
