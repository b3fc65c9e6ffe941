"""A study's report: its answer, and its numbers in report.json, report.csv and report.md. (The page: test_page.py.)"""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from finished_study import FID, evaluation
from paths import ROOT

from jobs.cost.count import run_cost
from jobs.data.pictures import grid, write_png
from jobs.errors import UserError
from jobs.report.board import read_board
from jobs.report.cost import achieved_flops, sampling_costs, stage_times
from jobs.report.exports import as_csv, as_json, as_markdown
from jobs.report.page.blocks import Bullets
from jobs.report.page.chart import styles
from jobs.report.page.cost_section import cost_blocks
from jobs.report.page.panels import bound_panel, curve_panels
from jobs.report.run import read_run
from jobs.report.study import read_study
from jobs.report.verdicts.effects import effects
from jobs.report.verdicts.ranking import ranked
from jobs.report.write import report
from jobs.run.directory import RunDir
from jobs.run.failures import Failure, write_failure
from jobs.storage.files import read_json, write_json


def test_the_answer_ranks_runs_and_compares_values_among_matched_runs(study):
    read = read_study(study)
    assert [run.name for run in ranked(read.runs, "fid (pixels)")][0] == "noise_schedule=cosine,loss=hybrid"
    assert [run.name for run in ranked(read.runs, "precision (pixels)")] == list(FID)  # equal ones stay in order
    by = {(effect.field, effect.metric): effect for effect in read.effects}
    schedule = by["diffusion.noise_schedule", "fid (pixels)"]
    assert schedule.means == {"linear": 7.0, "cosine": 4.5}
    assert (schedule.best, schedule.wins, len(schedule.groups)) == ("cosine", 2, 2)
    assert by["diffusion.loss", "fid (pixels)"].means == {"simple": 6.5, "hybrid": 5.0}
    text = " ".join(read.answer)
    assert "lowest is 4 (interval 3 to 5), noise_schedule=cosine,loss=hybrid; next 5" in text
    assert "Example by example the gap is 0.500 ± 0.000 over 6 examples" in text
    assert any("one training seed" in note for note in read.cautions)


def test_a_run_that_is_missing_takes_its_group_out_of_the_means(study):
    (study / "noise_schedule=linear,loss=hybrid" / "evaluation.json").unlink()
    by = {(effect.field, effect.metric): effect for effect in read_study(study).effects}
    assert by["diffusion.noise_schedule", "fid (pixels)"].means == {"linear": 8.0, "cosine": 5.0}
    assert by["diffusion.loss", "fid (pixels)"].means == {"simple": 5.0, "hybrid": 4.0}


def test_higher_precision_is_better(study):
    file = study / "noise_schedule=linear,loss=simple" / "evaluation.json"
    better = read_json(file)
    better["metrics"]["precision"]["value"] = 0.9
    write_json(file, better)
    read = read_study(study)
    assert ranked(read.runs, "precision (pixels)")[0].name == "noise_schedule=linear,loss=simple"
    assert {effect.best for effect in read.effects if effect.metric == "precision (pixels)"} == {"linear", "simple"}


def test_scatter_between_seeds_is_told_and_seeds_are_no_setting(study):
    file = study / "study.json"
    known = read_json(file)
    for seed, entry in enumerate(known["runs"].values()):
        entry["differs"] = {"diffusion.loss": "simple", "train.seed": seed}
    write_json(file, known)
    read = read_study(study)
    assert read.effects == [] and read.fields == {"train.seed": ["0", "1", "2", "3"]}
    pooled = np.std(list(FID.values()), ddof=1)
    assert any(f"fid (pixels): standard deviation between training seeds {pooled:.2g}" in note for note in read.cautions)


def test_metrics_of_today(study):
    metrics = read_study(study).runs[0].metrics
    assert {name: (metric.value, metric.spread) for name, metric in metrics.items()} == {
        "fid (pixels)": (8.0, "7 to 9"), "precision (pixels)": (0.5, ""), "kid (pixels)": (0.01, "± 0.002"),
        "bits/dim": (4.0, "± 0.1")}


def test_wall_times_add_up_over_attempts_and_survive_a_torn_line(study):
    run = RunDir(study / "noise_schedule=linear,loss=simple")
    with open(run.path / "stages.jsonl", "a") as file:
        file.write(json.dumps({"stage": "train", "state": "done", "started": 1.0, "seconds": 10.0, "world_size": 4,
                               "device": "NVIDIA H100 80GB HBM3"}) + '\n{"stage": "tr')
    read = read_run(run.path, {})
    train = stage_times(read, None)["train"]
    assert (train.seconds, train.process_hours, train.attempts) == (40.0, 100 / 3600, 2)
    assert read.remarks == ["stages.jsonl: line 5 cannot be read"]
    achieved, share = achieved_flops(read, read_board(run.tensorboard))
    assert achieved == pytest.approx(24.0 * run_cost(run.spec).training_step_flops / 12)
    assert share is None  # the peak of fp32 is not known
    for precision, peak in (("bf16", 989e12), ("tf32", 494.5e12)):
        read.spec = run.spec.model_copy(update={"train": run.spec.train.model_copy(update={"precision": precision})})
        assert achieved_flops(read, read_board(run.tensorboard))[1] == pytest.approx(achieved / (4 * peak))


def test_without_a_record_training_time_comes_from_the_log(study):
    run = RunDir(study / "noise_schedule=linear,loss=simple")
    (run.path / "stages.jsonl").unlink()
    times = stage_times(read_run(run.path, {}), read_board(run.tensorboard))
    assert list(times) == ["train"] and times["train"].seconds == pytest.approx(6.0) and not times["train"].recorded


def test_shorter_chains_cost_in_proportion(study):
    read = read_study(study)
    costs = sampling_costs(read.runs[0], read.times[read.runs[0].name])
    assert [cost.steps for cost in costs] == [25, 40]
    assert costs[0].flops / costs[1].flops == 25 / 40 and costs[1].seconds == pytest.approx(30.0)


def test_every_run_is_drawn_another_way(runs):
    read = [read_run(run.path, run.differs) for run in runs]
    drawn = styles(read)
    assert len(set(drawn.values())) == 4
    # Two swept fields: one is the colour, the other the dashes.
    assert len({style.colour for style in drawn.values()}) == 2 and len({style.dashes for style in drawn.values()}) == 2


def test_curves_and_bounds_are_drawn_in_each_runs_own_dashes(study):
    read = read_study(study)
    drawn_as = styles(read.shown)
    for panel in (bound_panel(read.bounds, drawn_as), curve_panels(read.shown, drawn_as)[1]):
        lines = re.findall(r'clip-path="[^"]*" style="fill: none; ([^"]*)"', panel)
        drawn = {(re.search(r"--[a-z]+", line)[0], "dasharray" in line) for line in lines} - {("--faint", False)}
        assert len(drawn) == 4, drawn  # two colours, each both ways


def test_equal_values_are_called_equal_and_nothing_is_marked_best(study):
    read = read_study(study)
    assert "precision (pixels): all 4 runs are equal, 0.5." in read.answer
    for effect in read.effects:
        if effect.metric in ("precision (pixels)", "kid (pixels)"):
            assert (effect.best, effect.wins, effect.verdict) == (None, 0, "all equal")
    assert report(study).read_text(encoding="utf-8").count('class="number best"') == 2  # fid and bits/dim
    assert "**0.5**" not in as_markdown(read)


def test_the_answer_begins_with_what_is_decided(study):
    for place, name in enumerate(FID):  # fid hardly differs; bits/dim differ by the loss alone
        write_json(study / name / "evaluation.json", evaluation(5 + place / 10, 3.0))
        with np.load(study / name / "bits_per_dim.npz") as arrays:
            kept = dict(arrays)
        noise = np.random.default_rng(place).normal(0, 0.01, 6)
        np.savez(study / name / "bits_per_dim.npz", **kept | {"total": 3 + np.arange(6) + noise})
    first, *others = read_study(study).answer
    assert first == ("diffusion.noise_schedule: undecided in fid (pixels) (within the error), all equal in bits/dim; "
                     "diffusion.loss: undecided in fid (pixels) (within the error), all equal in bits/dim.")
    assert "(undecided: within the error)" in others[0]
    for name in FID:
        more = name.endswith("simple") / 20
        write_json(study / name / "evaluation.json", evaluation(5 + more, 3 + more))
        with np.load(study / name / "bits_per_dim.npz") as arrays:
            kept = dict(arrays)
        np.savez(study / name / "bits_per_dim.npz", **kept | {"total": kept["total"] + more})
    # The standard error of 0.1 of either would not tell 0.05: example by example it is beyond doubt.
    assert read_study(study).answer[0].startswith("diffusion.loss: hybrid is best in bits/dim, undecided in fid (pixels)")
    for name in FID:
        (study / name / "bits_per_dim.npz").unlink()
    assert "is best" not in read_study(study).answer[0]


def test_the_equations_of_the_cost_hold(study):
    factors = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

    def number(text):
        digits, unit = re.fullmatch(r"([\d.,]+) ?([kMGT]?)(?:FLOP)?", text.strip()).groups()
        return float(digits.replace(",", "")) * factors[unit]
    read = read_study(study)
    evaluate = read.main.spec.evaluate.model_copy(update={"respacings": ["10", "20"]})
    read.main.spec = read.main.spec.model_copy(update={"evaluate": evaluate})
    page = "".join(text for block in cost_blocks(read) if isinstance(block, Bullets) for text in block.texts)
    found = re.findall(r"(?:× evaluations|× T) = ([^=:]*?) = ([\d.,]+ [MGT]?)FLOP", page)
    assert len(found) == 3, page  # main chain, the curve's other points, bits/dim
    for product, total in found:
        assert np.prod([number(factor) for factor in product.split("×")]) == pytest.approx(number(total), rel=0.01)


def test_json_and_csv_hold_the_numbers(study):
    read = read_study(study)
    facts = json.loads(json.dumps(as_json(read)), parse_constant=pytest.fail)
    first = facts["runs"][0]
    assert first["metrics"]["fid (pixels)"]["value"] == 8.0 and first["stages"]["train"]["seconds"] == 30.0
    assert facts["effects"][0]["means"] == {"linear": 7.0, "cosine": 4.5}
    rows = list(csv.DictReader(as_csv(read).splitlines()))
    assert all(np.isfinite(float(row["value"])) for row in rows)
    found = {(row["run"], row["table"], row["quantity"], row["at"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows)
    name = first["name"]
    assert found[name, "metric", "kid (pixels)", ""] == 0.01 and found[name, "training", "loss", "8"] == 0.125
    assert found[name, "curve", "fid ddim 10 steps", "12"] == pytest.approx(8.1)
    assert found[name, "bound", "bits/dim", "0"] == 1.0


def test_markdown_has_a_row_for_each_run_with_the_best_bold(study):
    lines = as_markdown(read_study(study)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[0].startswith("| diffusion.noise_schedule | diffusion.loss | fid (pixels) ↓ | precision (pixels) ↑ |")
    assert len(table) == 2 + 4
    assert table[-1].startswith("| cosine | hybrid | **4** |") and "**8**" not in "".join(table)


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a study's directory"):
        report(tmp_path)
    (tmp_path / "study.json").write_text('{"runs": 3}')
    with pytest.raises(UserError, match="study.json: not as"):
        report(tmp_path)


@pytest.mark.slow
def test_the_report_loads_no_torch(study):
    code = ("import sys\nfrom pathlib import Path\nfrom jobs.report.write import report\n"
            "report(Path(sys.argv[1]))\nassert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, study], cwd=ROOT, check=True)


def test_many_runs_show_the_best_and_a_sample(study):
    entries, differs = {}, {"diffusion.noise_schedule": "linear"}
    for number in range(30):
        run = RunDir(study / f"n={number}")
        run.path.mkdir()
        run.spec_file.write_text((study / "noise_schedule=linear,loss=simple" / "spec.yaml").read_text())
        write_json(run.evaluation, evaluation(30.0 - (number == 18) * 25, 3.0))
        entries[run.path.name] = {"differs": differs | {"train.lr": number / 1000}}
    write_json(study / "study.json", {"name": "many", "source": "x.yaml", "runs": entries})
    read = read_study(study)
    assert len(read.runs) == 30 and len(read.shown) == 8 and "n=18" in [run.name for run in read.shown]
    assert "Shown are" not in report(study).read_text(encoding="utf-8")  # there are no logs to show
    assert read.fields == {"train.lr": [str(number / 1000) for number in range(30)]}
    assert [metric.value for metric in read.runs[18].metrics.values()][0] == 5.0
    assert effects(read.points)[0].groups and as_markdown(read).count("\n| ") == 1 + 1 + 30


# Runs without numbers, or with numbers that rank nothing ----------------------------------------------------------------

BEST = "noise_schedule=cosine,loss=hybrid"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_a_metric_that_is_not_finite_is_left_out_and_named(study, value):
    file = study / BEST / "evaluation.json"
    found = read_json(file)
    found["metrics"]["fid"]["value"] = value
    write_json(file, found)
    read = read_study(study)
    assert BEST not in [run.name for run in ranked(read.runs, "fid (pixels)")]
    assert BEST in [run.name for run in ranked(read.runs, "bits/dim")]
    assert f"Left out of the comparison: {BEST} (fid is {value})." in read.cautions
    best = next(run for run in read.runs if run.name == BEST)
    assert f"left out of comparisons: fid is {value}" in best.remarks


def test_a_run_that_failed_is_named_as_left_out(study):
    (study / BEST / "evaluation.json").unlink()
    write_failure(study / BEST, Failure("sample", "not finite", "chunk 0 is not finite", "", 3, "n1", 0, 1.0))
    assert f"Left out of the comparison: {BEST} (sample failed: not finite)." in read_study(study).cautions
    assert "the network gives NaN or infinity" in (report(study) or (study / "report" / "report.html")).read_text()


@pytest.mark.parametrize("grey", [0, 255])
def test_samples_of_one_value_from_earlier_versions_do_not_win(study, grey):
    run = RunDir(study / BEST)
    write_png(run.samples_png, grid(np.full((6, 8, 8, 1), grey, np.uint8), columns=4))
    read = read_study(study)
    assert BEST not in [run.name for run in ranked(read.runs, "fid (pixels)")] and not next(
        run for run in read.runs if run.name == BEST).curve
    assert f"Left out of the comparison: {BEST} (its samples have the same value in every pixel)." in read.cautions


def test_skipped_steps_are_a_remark(study):
    file = study / BEST / "evaluation.json"
    write_json(file, read_json(file) | {"skipped_steps": 12})
    remarks = {run.name: run.remarks for run in read_study(study).runs}
    assert remarks[BEST] == ["12 training steps were skipped, because their gradient was not finite"]
    assert not any(found for name, found in remarks.items() if name != BEST)


@pytest.mark.parametrize("step, words", [(None, "their training step is not known"), (500, "training step 500 by --step")])
def test_imported_weights_are_a_remark(study, step, words):
    file = study / BEST / "provenance.json"
    write_json(file, read_json(file) | {"imported": {"file": "/x/a.pt", "step": step, "step_from": "--step"}})
    remarks = {run.name: run.remarks for run in read_study(study).runs}
    assert remarks[BEST] == [f"weights imported from /x/a.pt; {words}"]
