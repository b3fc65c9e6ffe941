"""Seeds in a sweep: a setting counts once, with mean, spread and n, and is ahead only by more than noise."""

import csv
import json

import pytest
from finished_study import evaluation

from jobs.report.evaluation import t_quantile
from jobs.report.exports import as_csv, as_json, as_markdown
from jobs.report.page.chart import styles
from jobs.report.study import read_study
from jobs.report.verdicts.points import is_seed, points_of, scatter_of
from jobs.report.write import report
from jobs.run.failures import Failure, write_failure
from jobs.storage.files import read_json, write_json
from slurm.cli.run import print_settings

FID = "fid (pixels)"


def value_of(fid: float, bits: float, error: float = 1e-6) -> dict:
    facts = evaluation(fid, bits)
    facts["metrics"]["fid"]["interval"] = [fid - error, fid + error]
    facts["bits_per_dim"]["standard_error"] = error
    return facts


@pytest.fixture
def sweep(study):
    """sweep({("simple", 0): 5.0, ...}, key="train.seed") -> the study with such runs: their FID by loss and seed."""
    spec = next(study.glob("*/spec.yaml")).read_text()

    def make(fids: dict[tuple[str | None, int], float | None], key: str = "train.seed"):
        entries = {}
        for (loss, seed), fid in fids.items():
            name = ",".join(filter(None, [f"loss={loss}" if loss else "", f"seed={seed}"]))
            (study / name).mkdir()
            (study / name / "spec.yaml").write_text(spec)
            if fid is not None:
                write_json(study / name / "evaluation.json", value_of(fid, 3.0 + fid / 100))
            entries[name] = {"differs": ({"diffusion.loss": loss} if loss else {}) | {key: seed}}
        write_json(study / "study.json", {"name": "seeds", "source": "x.yaml", "runs": entries})
        return study
    return make


CLEAR = {("simple", 0): 5.0, ("simple", 1): 5.2, ("simple", 2): 5.1, ("hybrid", 0): 3.0, ("hybrid", 1): 3.1, ("hybrid", 2): 3.2}
NOISY = {("simple", 0): 5.0, ("simple", 1): 6.0, ("simple", 2): 4.0, ("hybrid", 0): 4.9, ("hybrid", 1): 5.9, ("hybrid", 2): 3.9}


@pytest.mark.parametrize("key", ["train.seed", "sample.seed", "evaluate.seed", "other.noise_seed"])
def test_a_setting_counts_once_with_mean_spread_and_n(sweep, key):
    read = read_study(sweep(CLEAR, key))
    assert [(point.name, len(point.runs)) for point in read.points] == [("loss=simple", 3), ("loss=hybrid", 3)]
    metric = read.points[0].metrics[FID]
    assert metric.value == pytest.approx(5.1) and metric.spread == "± 0.10 (n = 3)"
    effect = next(effect for effect in read.effects if effect.metric == FID)
    assert effect.field == "diffusion.loss" and effect.decided and effect.best == "hybrid" and len(effect.groups) == 1
    best = next(line for line in read.answer if line.startswith(FID))
    assert best == (f"{FID}: lowest mean is 3.10 ± 0.10 (n = 3), loss=hybrid; next 5.10 ± 0.10 (n = 3), loss=simple "
                    "(gap 2.00 ± 0.23).")  # t(4) * 0.1 * sqrt(2/3)
    assert read.question.startswith(f"2 settings, 6 runs with seeds {key} (0, 1, 2), vary diffusion.loss (simple, hybrid)")


def test_a_difference_within_the_noise_is_no_verdict(sweep):
    read = read_study(sweep(NOISY))  # each measurement is exact: the scatter over seeds alone decides
    effect = next(effect for effect in read.effects if effect.metric == FID)
    assert not effect.decided and effect.verdict == "undecided: within the error"
    assert any("they cannot be told apart: gap 0.1 ± 2.3" in line for line in read.answer)
    assert "**" not in as_markdown(read) and 'best"' not in report(read.folder).read_text(encoding="utf-8")


def test_one_seed_each_decides_by_the_measurements_as_ever(sweep):
    read = read_study(sweep({("simple", 0): 5.0, ("hybrid", 0): 4.9}))
    assert next(effect for effect in read.effects if effect.metric == FID).decided
    assert any("one training seed" in caution for caution in read.cautions)
    assert not read.repeated and "Each run" not in as_markdown(read)


def test_a_setting_with_one_seed_is_taken_to_scatter_like_the_others(sweep):
    read = read_study(sweep({("simple", 0): 5.0, ("simple", 1): 6.0, ("hybrid", 0): 4.5}))
    assert not next(effect for effect in read.effects if effect.metric == FID).decided
    scatter = scatter_of(read.points, FID)
    assert (scatter.variance, scatter.freedom, scatter.points) == (0.5, 1, 1)


def test_seeds_that_differ_by_nothing_leave_the_error_of_the_measurements(sweep):
    study = sweep({("simple", 0): 5.0, ("simple", 1): 5.0, ("hybrid", 0): 4.9, ("hybrid", 1): 4.9})
    for name in ("loss=simple,seed=0", "loss=hybrid,seed=1"):
        fid = read_json(study / name / "evaluation.json")["metrics"]["fid"]["value"]
        write_json(study / name / "evaluation.json", value_of(fid, 3.0, error=2.0))
    assert not next(effect for effect in read_study(study).effects if effect.metric == FID).decided


def test_seeds_alone_are_no_ranking(sweep):
    read = read_study(sweep({(None, seed): fid for seed, fid in enumerate([5.0, 5.2, 5.4])}))
    assert read.question == "3 runs of one setting vary train.seed (0, 1, 2): how far do their results scatter?"
    assert f"{FID}: 5.20 ± 0.20 (n = 3), all seeds." in read.answer and read.effects == []
    text = " ".join(read.answer)
    assert "lowest" not in text and "next" not in text and "**" not in as_markdown(read)
    assert "best" not in report(read.folder).read_text(encoding="utf-8").partition("<body>")[2].partition("Pictures")[0]


def test_failed_and_diverged_seeds_are_named_and_n_says_so(sweep):
    study = sweep(CLEAR | {("hybrid", 1): None, ("hybrid", 2): 3.2})
    write_failure(study / "loss=hybrid,seed=1", Failure("train", "diverged", "loss is NaN", "", 3, "n1", 0, 1.0))
    broken = read_json(study / "loss=simple,seed=2" / "evaluation.json")
    broken["metrics"]["fid"]["value"] = float("nan")
    (study / "loss=simple,seed=2" / "evaluation.json").write_text(json.dumps(broken))
    read = read_study(study)
    assert [point.metrics[FID].spread for point in read.points] == ["± 0.14 (n = 2 of 3)", "± 0.14 (n = 2 of 3)"]
    left_out = next(caution for caution in read.cautions if caution.startswith("Left out"))
    assert "loss=hybrid,seed=1 (train failed: diverged)" in left_out and "loss=simple,seed=2" in left_out
    page = report(study).read_text(encoding="utf-8")
    assert "(n = 2 of 3)" in page and "loss=hybrid,seed=1 (train failed: diverged)" in page.replace("<wbr>", "")


def test_one_seed_left_of_several(sweep):
    read = read_study(sweep(CLEAR | {("hybrid", 1): None, ("hybrid", 2): None}))
    assert read.points[1].metrics[FID].spread == "(n = 1 of 3)"
    assert any("3 (n = 1 of 3), loss=hybrid" in line for line in read.answer)


def test_exports_keep_each_run_and_have_the_settings(sweep):
    read = read_study(sweep(CLEAR))
    facts = json.loads(json.dumps(as_json(read)), parse_constant=pytest.fail)
    assert len(facts["runs"]) == 6
    hybrid = facts["settings"][1]
    assert hybrid["name"] == "loss=hybrid" and hybrid["differs"] == {"diffusion.loss": "hybrid"} and len(hybrid["runs"]) == 3
    assert hybrid["metrics"][FID] == {"mean": pytest.approx(3.1), "standard_deviation": pytest.approx(0.1), "n": 3,
                                      "values": [3.0, 3.1, 3.2]}
    rows = list(csv.DictReader(as_csv(read).splitlines()))
    found = {(row["run"], row["table"], row["quantity"], row["at"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows) and found["loss=hybrid,seed=2", "metric", FID, ""] == 3.2
    assert found["loss=hybrid", "mean over seeds", FID, ""] == pytest.approx(3.1)
    assert found["loss=hybrid", "standard deviation over seeds", FID, ""] == pytest.approx(0.1)
    assert found["loss=hybrid", "seeds", FID, ""] == 3
    settings, _, runs = as_markdown(read).partition("Each run:")
    assert settings.count("\n| ") == 4 and "| hybrid | 3 | **3.10 ± 0.10 (n = 3)** |" in settings
    assert runs.count("\n| ") == 8 and "**" not in runs


def test_the_page_shows_settings_then_runs(sweep):
    page = report(sweep(CLEAR)).read_text(encoding="utf-8").replace("<wbr>", "")
    assert page.index("Settings, over seeds") < page.index("Each run") < page.index("loss=simple,seed=0")
    assert page.count('class="number best"') == 2  # fid and bits/dim, of the setting
    assert "Dots: each seed. Bars: the standard deviation over seeds." in page


def test_seeds_of_a_setting_are_drawn_alike(sweep):
    read = read_study(sweep(CLEAR))
    drawn = styles(read.runs)
    assert len(set(drawn.values())) == 2 and len(drawn) == 6
    alone = read_study(sweep({(None, seed): 5.0 + seed for seed in range(3)}))
    assert len(set(styles(alone.runs).values())) == 3  # nothing else is to be told apart


def test_more_seeds_than_pictures_show_one_of_each_setting(sweep):
    read = read_study(sweep({(loss, seed): 5.0 + seed for loss in ("simple", "hybrid", "vlb") for seed in range(5)}))
    assert [run.name for run in read.shown] == [f"loss={loss},seed=0" for loss in ("simple", "hybrid", "vlb")]
    assert [len(point.runs) for point in points_of(read.runs)] == [5, 5, 5]


def test_what_is_a_seed():
    assert all(map(is_seed, ["train.seed", "sample.seed", "a.b.noise_seed"]))
    assert not any(map(is_seed, ["train.lr", "model.seeds", "data.seedling"]))


def test_students_quantiles():
    scipy_stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 5, 10, 11, 30, 200):
        assert t_quantile(freedom) == pytest.approx(scipy_stats.t.ppf(0.975, freedom), rel=2e-3)
    assert t_quantile(1.9) == t_quantile(1)


def test_the_command_line_prints_settings_with_several_seeds(sweep, capsys):
    study = sweep(CLEAR | {("vlb", 0): 4.0})
    print_settings(report(study).with_suffix(".json"))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "loss=hybrid 3 3.1 ± 0.1 (n = 3)" in lines[4] and not any("vlb" in line for line in lines)
