"""A finished study of four runs, as `finish` writes the files that runs leave."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from jobs.data.dataset import open_data
from jobs.run.board import Board
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json

SWEEP = {"grid": {"diffusion.noise_schedule": ["linear", "cosine"], "diffusion.loss": ["simple", "hybrid"]}}
FID = {"noise_schedule=linear,loss=simple": 8.0, "noise_schedule=linear,loss=hybrid": 6.0,
       "noise_schedule=cosine,loss=simple": 5.0, "noise_schedule=cosine,loss=hybrid": 4.0}


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
