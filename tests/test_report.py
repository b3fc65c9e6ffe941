"""A study's report: what it says, that any mixture of runs makes one, and the page in a real browser."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from html import escape
from pathlib import Path

import h5py
import numpy as np
import pytest

from jobs.board import Board
from jobs.cost import run_cost
from jobs.data import open_data
from jobs.errors import UserError
from jobs.failures import NEXT, Failure, write_failure
from jobs.files import read_json, write_json
from jobs.report import report
from jobs.report_answer import effects, ranked
from jobs.report_board import read_board
from jobs.report_cost import achieved_flops, sampling_costs, stage_times
from jobs.report_complexity import cost_section
from jobs.report_figures import bound_panel, curve_panels, styles
from jobs.report_pictures import samples_picture
from jobs.report_run import read_run
from jobs.report_study import read_study
from jobs.report_tables import as_csv, as_json, as_markdown
from jobs.rundir import RunDir, freeze
from jobs.spec_file import load

ROOT = Path(__file__).parent.parent
SWEEP = {"grid": {"diffusion.noise_schedule": ["linear", "cosine"], "diffusion.loss": ["simple", "hybrid"]}}
FID = {"noise_schedule=linear,loss=simple": 8.0, "noise_schedule=linear,loss=hybrid": 6.0,
       "noise_schedule=cosine,loss=simple": 5.0, "noise_schedule=cosine,loss=hybrid": 4.0}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
# A page tells its width to the one around it: a window cannot be made as narrow as a phone.
TELL_WIDTH = """<script>
const e = document.documentElement; parent.postMessage(`${e.scrollWidth} of ${e.clientWidth}`, "*");
</script>"""
AROUND = ("<body><iframe src='narrow.html' style='width:390px;height:900px;border:0'></iframe>"
          "<script>addEventListener('message', event => document.body.dataset.width = event.data)</script>")
SORT = """<script>
const head = [...document.querySelectorAll("#runs th")].find(head => head.textContent.startsWith("fid (pixels)"));
const order = () => [...document.querySelectorAll("#runs tbody th")].map(cell => cell.dataset.v).join(" ");
head.firstChild.click(); document.body.dataset.once = order();
head.firstChild.click(); document.body.dataset.twice = order();
document.body.dataset.sort = head.getAttribute("aria-sort");
</script>"""


def evaluation(fid: float, bits: float) -> dict:
    points = [(12, "ancestral", "", 40), (8, "ancestral", "", 40), (12, "ancestral", "10", 10), (12, "ddim", "10", 10)]
    return {
        "weights_sha256": "0" * 64, "samples": 10, "settings": {},
        "features": {"name": "pixels", "sha256": None, "note": "plain pixels", "comparable": False},
        "reference": {"path": "digits", "images": 1500},
        "metrics": {"fid": {"value": fid, "note": None, "infinity": None, "interval": [fid - 1, fid + 1]},
                    "precision": {"value": 0.5}, "kid": {"value": 0.01, "standard_error": 0.002}},
        "bits_per_dim": {"value": bits, "standard_error": 0.1, "prior": 0.0, "examples": 6, "data": "digits-test"},
        "headline": {"fid (pixels)": fid, "bits/dim": bits},
        "curve": [{"step": step, "sampler": sampler, "timestep_respacing": respacing, "sampling_steps": steps, "samples": 10,
                   "metrics": {"fid": fid + 1 / steps}} for step, sampler, respacing, steps in points]}


def finish(run: RunDir, fid: float, bits: float = 3.0) -> None:
    """The files that a run leaves, without computing them."""
    board = Board(run.tensorboard, 0)
    for step in (4, 8, 12):
        board.scalars({"loss": 1 / step, "loss_q0": 2 / step, "loss_q1": 1 / step, "loss_q2": 1 / step, "loss_q3": 1 / step,
                       "grad_norm": 1.0, "samples": 12 * step, "images_per_second": 24.0, "memory_gib": 0.5}, step)
    board.images("denoising", open_data("digits", 8, 1).images[:9], 12, columns=9)
    board.close()
    run.samples.mkdir()
    with h5py.File(run.samples_h5, "w") as file:
        file["images"], file["labels"] = open_data("digits-test", 8, 1).images[:10], np.arange(10)
    vb = np.geomspace(1, 1e-4, 40)
    np.savez(run.path / "bits_per_dim.npz", total=bits + np.arange(6) / 10, prior=np.zeros(6), vb=vb, mse=vb, xstart_mse=vb)
    lines = [{"stage": stage, "state": "done", "started": 1e9, "seconds": 30.0, "world_size": 2, "device": "cpu"}
             for stage in ("train", "sample", "evaluate")]
    (run.path / "stages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(run.evaluation, evaluation(fid, bits))


@pytest.fixture
def runs(make_run, tmp_path) -> list[RunDir]:
    """Four runs of a 2x2 sweep, frozen and not started."""
    make_run(folder="single")
    spec = tmp_path / "sweep.yaml"
    spec.write_text(json.dumps(read_json(tmp_path / "small.yaml") | {"sweep": SWEEP}))
    return freeze(load(spec, ()), tmp_path / "runs")


@pytest.fixture
def study(runs) -> Path:
    """The same, finished."""
    for run in runs:
        finish(run, FID[run.path.name], FID[run.path.name] / 2)
    return runs[0].path.parent


def page_of(study: Path) -> str:
    return report(study).read_text(encoding="utf-8")


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
    assert any("One training seed" in note for note in read.cautions)


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
    half = run.spec.model_copy(update={"train": run.spec.train.model_copy(update={"precision": "bf16"})})
    read.spec = half
    assert achieved_flops(read, read_board(run.tensorboard))[1] == pytest.approx(achieved / (4 * 989e12))


def test_without_a_record_training_time_comes_from_the_log(study):
    run = RunDir(study / "noise_schedule=linear,loss=simple")
    (run.path / "stages.jsonl").unlink()
    times = stage_times(read_run(run.path, {}), read_board(run.tensorboard))
    assert list(times) == ["train"] and times["train"].seconds == pytest.approx(6.0) and not times["train"].recorded


def test_shorter_chains_cost_in_proportion(study):
    read = read_study(study)
    costs = sampling_costs(read.runs[0], read.times[read.runs[0].name])
    assert [steps for steps, _, _ in costs] == [25, 40]
    assert costs[0][1] / costs[1][1] == 25 / 40 and costs[1][2] == pytest.approx(30.0)


def test_published_rows_are_told_apart_from_ours(tmp_path):
    path = tmp_path / "cifar10.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((4, 32, 32, 3), np.uint8)
    [run] = freeze(load(ROOT / "configs" / "cifar10.yaml", (f"data.path={path}",)), tmp_path / "runs")
    write_json(run.evaluation, evaluation(50.0, 4.0))
    page = page_of(run.path.parent)
    assert "Nichol &amp; Dhariwal 2021 (arXiv 2102.09672), table 2" in page and "11.47" in page
    assert '<tr class="ours"><th scope="row" data-v="ours: run">' in page and "fid (pixels): not comparable" in page


def test_every_run_is_drawn_another_way(runs):
    read = [read_run(run.path, run.differs) for run in runs]
    drawn = styles(read)
    assert len(set(drawn.values())) == 4
    # Two swept fields: one is the colour, the other the dashes.
    assert len({style.colour for style in drawn.values()}) == 2 and len({style.dashes for style in drawn.values()}) == 2


def test_curves_and_bounds_are_drawn_in_each_runs_own_dashes_and_ddim_hollow(study):
    read = read_study(study)
    for panel in (bound_panel(read.bounds, read.drawn), curve_panels(read.shown, read.drawn)[1]):
        lines = re.findall(r'clip-path="[^"]*" style="fill: none; ([^"]*)"', panel)
        drawn = {(re.search(r"--[a-z]+", line)[0], "dasharray" in line) for line in lines} - {("--faint", False)}
        assert len(drawn) == 4, drawn  # two colours, each both ways
    chain = curve_panels(read.shown, read.drawn)[1]
    assert "hollow: DDIM" in chain and re.search(r'<use [^>]*style="fill-opacity: 0;', chain)


def test_equal_values_are_called_equal_and_nothing_is_marked_best(study):
    read = read_study(study)
    assert "precision (pixels): all 4 runs are equal, 0.5." in read.answer
    for effect in read.effects:
        if effect.metric in ("precision (pixels)", "kid (pixels)"):
            assert (effect.best, effect.wins, effect.verdict) == (None, 0, "all equal")
    assert page_of(study).count('class="number best"') == 2  # fid and bits/dim
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
    page = "".join(cost_section(read))
    found = re.findall(r"(?:K steps|× steps|× T) = ([^=:]*?) = ([\d.,]+ [MGT]?)FLOP", page)
    assert len(found) == 3, page  # main chain, the curve's other points, bits/dim
    for product, total in found:
        assert np.prod([number(factor) for factor in product.split("×")]) == pytest.approx(number(total), rel=0.01)


def test_equal_failures_are_told_once(runs):
    for run in runs[:3]:
        write_failure(run.path, Failure("train", "out of memory", f"no memory in {run.path}", "", 3, "n1", 0, 1.0))
    write_failure(runs[3].path, Failure("train", "diverged", "loss is nan", "", 3, "n1", 0, 1.0))
    page = page_of(runs[0].path.parent)
    assert page.count(f'>{NEXT["out of memory"].format(stage="train")}<') == page.count(f'>{NEXT["diverged"]}<') == 1
    assert "3 runs<small>noise_schedule=<wbr>linear,<wbr>loss=<wbr>simple, " in page


def test_captions_break_after_commas_and_equals_signs(study):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page_of(study))
    assert any("noise_schedule=<wbr>linear,<wbr>loss=<wbr>simple" in caption for caption in captions)
    assert not any(re.search("[,=][a-z]", caption) for caption in captions)


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


def test_states_and_reasons(runs):
    failed, running, stopped, untouched = runs
    write_failure(failed.path, Failure("train", "out of memory", "no <memory> left", "", 3, "n1", 0, 1.0))
    for run, age in ((running, 0), (stopped, 4000)):
        write_json(run.progress, {"stage": "train", "state": "running", "heartbeat": time.time() - age})
    page = page_of(failed.path.parent)
    states = [run["state"] for run in read_json(failed.path.parent / "report.json")["runs"]]
    assert states == ["failed", "running", "stopped", "not started"]
    assert "no &lt;memory&gt; left" in page and "no <memory> left" not in page
    assert NEXT["out of memory"].format(stage="train") in page
    assert "No run has been evaluated yet." in page


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
    page = page_of(broken.path.parent)
    remarks = read_json(broken.path.parent / "report.json")["runs"][0]["remarks"]
    assert any(remark.startswith("spec.yaml") for remark in remarks)
    assert all(f"<li>{escape(f'{broken.path.name}: {remark}')}</li>" in page for remark in remarks)
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


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a study's directory"):
        report(tmp_path)
    (tmp_path / "study.json").write_text('{"runs": 3}')
    with pytest.raises(UserError, match="study.json: not what"):
        report(tmp_path)


def test_the_report_loads_no_torch(study):
    code = ("import sys\nfrom pathlib import Path\nfrom jobs.report import report\n"
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
    assert "Shown are" not in page_of(study)  # there are no logs to show
    assert read.fields == {"train.lr": [str(number / 1000) for number in range(30)]}
    assert [metric.value for metric in read.runs[18].metrics.values()][0] == 5.0
    assert effects(read.runs)[0].groups and as_markdown(read).count("\n| ") == 1 + 1 + 30


def browse(page: Path, folder: Path) -> str:
    """The page's DOM after its scripts ran. Fails where the console complains."""
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
               f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom")
    done = subprocess.run([BROWSER, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def page(study) -> Path:
    return report(study)


@pytest.mark.browser
def test_everything_is_on_the_page_and_the_table_sorts(page, tmp_path):
    sorting = page.with_name("sorting.html")
    sorting.write_text(page.read_text().replace("</body>", SORT + "</body>"))
    dom = browse(sorting, tmp_path)
    for section in ("runs", "effects", "training", "likelihood", "curves", "pictures", "cost", "reproduce"):
        assert f'<section id="{section}">' in dom, section
    for title in ("Samples", "From data to noise", "From noise to a sample", "Nearest training images", "How it grows"):
        assert f"<h3>{title}</h3>" in dom
    assert dom.count("<img") == 4 + 2 + 4 + 4
    by_fid = ["noise_schedule=cosine,loss=hybrid", "noise_schedule=cosine,loss=simple", "noise_schedule=linear,loss=hybrid",
              "noise_schedule=linear,loss=simple"]
    assert f'data-once="{" ".join(by_fid)}"' in dom and f'data-twice="{" ".join(reversed(by_fid))}"' in dom
    assert 'data-sort="descending"' in dom


@pytest.mark.browser
def test_it_fits_a_phone(page, tmp_path):
    page.with_name("narrow.html").write_text(page.read_text().replace("</body>", TELL_WIDTH + "</body>"))
    around = page.with_name("around.html")
    around.write_text(AROUND)
    wide, there = re.search(r'data-width="(\d+) of (\d+)"', browse(around, tmp_path)).groups()
    assert wide == there and 360 <= int(there) <= 390  # a scroll bar takes some


def test_it_needs_no_network_and_defines_its_colours(page):
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)[^"]', text) and "url(" not in text.replace("url(#", "")
    used = set(re.findall(r"var\((--[a-z]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.S)
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used), used
    ids = re.findall(r'<section id="(\w+)"', text)
    assert re.findall(r'<a href="#(\w+)"', text) == ids
    assert len(text) < 5_000_000
