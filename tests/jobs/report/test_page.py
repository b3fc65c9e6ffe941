"""The page of a report: what stands on it, and that it works in a real browser."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from finished_study import evaluation
from paths import ROOT

from jobs.report.page.chart import Series, Style, panel
from jobs.report.write import report
from jobs.run.failures import NEXT, Failure, write_failure
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json

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


def page_of(study: Path) -> str:
    return report(study).read_text(encoding="utf-8")


def test_published_rows_are_told_apart_from_ours(tmp_path):
    path = tmp_path / "cifar10.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((4, 32, 32, 3), np.uint8)
    [run] = freeze(load(ROOT / "configs" / "cifar10.yaml", (f"data.path={path}",)), tmp_path / "runs")
    write_json(run.evaluation, evaluation(50.0, 4.0))
    page = page_of(run.path.parent)
    assert "Nichol &amp; Dhariwal 2021 (arXiv 2102.09672), table 2" in page and "11.47" in page
    assert '<tr class="ours"><th scope="row" data-v="ours: run">' in page and "fid (pixels): not comparable" in page


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
    for section in ("runs", "effects", "training", "likelihood", "curves", "samplings", "pictures", "cost", "reproduce"):
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


def test_names_of_any_script_and_control_characters_are_drawn_as_text():
    svg = panel("中文 <b>\x1b[31m", "x", "y", [Series([1, 2], [1, 2], Style(), "名\x1b<script>")], categories=["é", "中"])
    assert "中文" in svg and "\\x1b" in svg and "\x1b" not in svg and "<script>" not in svg and "<b>" not in svg
