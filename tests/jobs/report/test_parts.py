"""The parts of a report that need no study: figures, pictures, counts, and reading single files."""

import base64
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from PIL import Image

from jobs.cost.count import run_cost
from jobs.data.dataset import open_data
from jobs.report.board import read_board
from jobs.report.cost import growths, layer_groups
from jobs.report.diffusion_facts import setting_of
from jobs.report.evaluation import curve_of, metrics_of
from jobs.report.neighbours import nearest
from jobs.report.page.chart import Series, Style, _wrapped, chart, panel
from jobs.report.page.pictures import denoising_picture, noising_picture
from jobs.report.published import published_for
from jobs.report.run import read_run
from jobs.run.board import Board
from jobs.spec.reading.file import load


def test_metrics_have_names_with_their_features_and_say_what_they_rest_on():
    metrics = metrics_of({
        "samples": 64, "features": {"name": "classifier", "note": "a small one", "comparable": False},
        "reference": {"path": "digits", "images": 1500},
        "metrics": {"fid": {"value": 7.5, "note": "plain"}, "inception_score": {"value": 2.0, "standard_deviation": 0.5}},
        "bits_per_dim": {"value": 3.1, "standard_error": None, "examples": 16, "data": "digits-test"}})
    assert list(metrics) == ["fid (classifier)", "inception score (classifier)", "bits/dim"]
    assert [metric.key for metric in metrics.values()] == ["fid", "inception_score", "bits_per_dim"]
    assert [metric.higher_is_better for metric in metrics.values()] == [False, True, False]
    assert metrics["fid (classifier)"].comparable is False
    assert metrics["fid (classifier)"].basis == "64 samples against 1,500 images of digits; plain"
    assert metrics["inception score (classifier)"].basis == "64 samples against 1,500 images of digits; a small one"
    assert [metric.spread for metric in metrics.values()] == ["", "± 0.5", ""]


def test_points_of_a_curve_need_no_sampler():
    [point] = curve_of({"curve": [{"step": 12, "samples": 10, "metrics": {"fid": 1.0}}]})
    assert (point.step, point.sampler, point.timestep_respacing, point.sampling_steps) == (12, "", "", 1)


def test_the_log_leaves_out_what_an_interrupted_attempt_wrote_too_far(tmp_path):
    named: set[Path] = set()
    for attempt, (start, steps) in enumerate(((0, (10, 20, 30, 40)), (20, (30,)))):
        board = Board(tmp_path, start)
        for step in steps:
            board.scalars({"loss": step + attempt / 8, "samples": 10 * step, "images_per_second": 50.0}, step)
        board.close()
        [written] = set(tmp_path.iterdir()) - named
        named.add(written.rename(tmp_path / f"events.out.tfevents.{attempt}"))  # tensorboard's own names count seconds
    log = read_board(tmp_path)
    assert log.scalars["loss"] == {10: 10, 20: 20, 30: 30.125}
    assert log.training_seconds == pytest.approx(6.0)


def test_layers_add_up_to_the_network_and_doubling_grows_as_stated(make_run):
    spec = make_run().spec
    groups, cost = layer_groups(spec), run_cost(spec)
    assert sum(group.parameters for group in groups) == cost.parameters
    assert sum(group.flops for group in groups) == cost.forward_flops
    size, width, channels = growths(spec)
    assert size.parameters == 1 and 4 < size.flops < 4.5 and 3.9 < size.activations <= 4
    assert 3.5 < width.flops < 4 and 3.5 < width.parameters < 4
    assert 1 < channels.flops < 1.2


def figures_of_the_same_setting(config: str) -> tuple[str, list[tuple]]:
    spec = load(ROOT / "configs" / f"{config}.yaml", ()).runs[0].spec
    name, rows = published_for(spec)
    return name, [(row.bits_per_dim, row.fid) for row in rows if row.has_setting(setting_of(spec), spec.train.iterations)]


def test_the_papers_rows_stand_beside_their_configs_only():
    assert figures_of_the_same_setting("cifar10") == ("CIFAR-10", [(3.17, 3.19)])
    found = {config: figures_of_the_same_setting(config)[1]
             for config in ("cifar10-vlb", "ddpm-cifar10", "imagenet64", "imagenet64-cond", "imagenet64-adm",
                            "quickstart")}
    assert found == {"cifar10-vlb": [(2.94, 11.47)], "ddpm-cifar10": [(None, 3.17)], "imagenet64": [(3.57, 19.2)],
                     "imagenet64-cond": [(None, 2.92)], "imagenet64-adm": [(None, 2.07)], "quickstart": []}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2 ** 32 - 1), count=st.integers(1, 5), images=st.integers(2, 40))
def test_the_nearest_image_is_that_of_an_exhaustive_search(seed, count, images):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (images, 3, 3, 2), dtype=np.uint8)
    queries = rng.integers(0, 256, (count, 3, 3, 2), dtype=np.uint8)
    index, distance = nearest(queries, data)
    apart = np.sqrt(((queries[:, None].astype(float) - data[None]) ** 2).mean(axis=(2, 3, 4)))
    np.testing.assert_allclose(distance, apart.min(axis=1))
    np.testing.assert_allclose(apart[np.arange(count), index], apart.min(axis=1))
    itself, _ = nearest(data, data, not_itself=np.arange(images))
    assert np.all(itself != np.arange(images))


def test_the_nearest_image_is_found_in_whichever_block_it_lies():
    data = np.random.default_rng(0).integers(0, 256, (5000, 2, 2, 1), dtype=np.uint8)
    index, distance = nearest(data[[3, 2500, 4999]], data)
    np.testing.assert_array_equal(data[index], data[[3, 2500, 4999]])
    assert not distance.any()


def decoded(picture) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as opened:
        return np.array(opened)


def test_the_denoising_strip_comes_out_of_tensorboard_as_it_went_in(make_run):
    run = read_run(make_run().path, {})
    board = Board(run.run.tensorboard, 0)
    board.images("denoising", open_data("digits", 8, 1).images[:9], 12, columns=9)
    board.close()
    picture = denoising_picture(run, read_board(run.run.tensorboard))
    pixels = decoded(picture)
    assert pixels.shape == (8, 9 * 9 - 1, 2)
    for place, image in enumerate(open_data("digits", 8, 1).images[:9]):
        np.testing.assert_array_equal(pixels[:, 9 * place:9 * place + 8, :1], image)


def test_noising_begins_with_the_image_and_ends_without(make_run):
    run, data = read_run(make_run().path, {}), open_data("digits", 8, 1)
    pixels = decoded(noising_picture(run, data)).astype(int)
    first, last = pixels[:, :8, 0], pixels[:, -8:, 0]
    image = data.images[0, :, :, 0].astype(float)
    assert np.corrcoef(first.ravel(), image.ravel())[0, 1] > 0.95 and abs(np.corrcoef(last.ravel(), image.ravel())[0, 1]) < 0.5


def test_a_legend_lies_beside_the_curves():
    drawn = chart("t", "x", "y", [Series([1, 2], [1, place], Style(), f"curve {place}") for place in range(4)], "", ())
    drawn.draw_without_rendering()
    assert not drawn.legends[0].get_window_extent().overlaps(drawn.axes[0].get_window_extent())


def test_long_titles_break_where_a_name_may():
    name = "noise_schedule=linear,loss=hybrid,learn_sigma=true,num_channels=128"
    lines = _wrapped(name, 30).split("\n")
    assert "".join(lines) == name and all(len(line) <= 30 for line in lines) and all(line[-1] in ",=" for line in lines[:-1])


def test_a_panel_is_well_formed_and_takes_its_colours_from_the_page():
    svg = panel("a < b & $x_1$", "step", "loss", [Series([1, 2, 3], [1.0, 0.0, 5.0], Style(), "one")], "xy")
    ElementTree.fromstring(svg)
    assert "#010203" not in svg and "var(--ink)" in svg and "a &lt; b &amp; $x_1$" in svg
    small = [Series([1, 2], [0.00012, 0.0005], Style())]
    assert panel("t", "x", "y", small) == panel("t", "x", "y", small) and ">0.0005<" in panel("t", "x", "y", small)
