"""sample.batch_size: auto: what is chosen, that it is chosen once, and that it is then as if the number had been given."""

import json
import shutil
import time

import h5py
import numpy as np
import pytest
import torch

from jobs import batch_size
from jobs.batch_size import measured_rates
from jobs.bench_file import smallest_that_pays
from jobs.build import build_network
from jobs.checkpoints import save_checkpoint
from jobs.cost import ASSUMED_BATCH, run_cost
from jobs.errors import UserError
from jobs.files import read_json, write_json
from jobs.gather import gather_points
from jobs.rundir import RunDir
from jobs.spec_file import load
from slurm.status import _samples

CPU = torch.device("cpu")
AUTO = ("sample.batch_size=auto", "diffusion.diffusion_steps=8", "train.iterations=1", "evaluate.nll_examples=0")


def trained(run):
    """`run` with random weights for a checkpoint."""
    weights = build_network(run.spec).state_dict()
    save_checkpoint(run, run.spec.train.iterations, weights, {0.9: weights}, None)
    return run


def samples(run) -> bytes:
    with h5py.File(run.samples_h5) as file:
        return file["images"][:].tobytes()


@pytest.fixture
def seconds(monkeypatch):
    """seconds({1: 0.1, 2: 0.1}): what a step of so many samples takes; of others the memory does not suffice."""
    def pretend(known: dict[int, float]) -> list[int]:
        asked = []

        def step(spec, network, diffusion, rows):
            asked.append(rows)
            assert spec.sample.batch_size == rows
            if rows not in known:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return known[rows]
        monkeypatch.setattr(batch_size, "seconds_per_step", step)
        return asked
    return pretend


def test_the_smallest_that_is_about_as_fast_as_the_best():
    assert smallest_that_pays({1: 10, 2: 19, 4: 20, 8: 20.5, 16: 15}) == 4
    assert smallest_that_pays({1: 10, 2: 9}) == 1


def test_sizes_are_tried_up_to_a_rank_s_share_to_memory_s_end_or_until_nothing_more_is_to_be_gained(make_run, seconds):
    spec = make_run(*AUTO).spec
    quick = dict.fromkeys((1, 2, 4, 8), 0.1)
    assert seconds(quick) == [] and measured_rates(spec, None, CPU, 7) == {1: 10, 2: 20, 4: 40}
    asked = seconds(quick)
    assert list(measured_rates(spec, None, CPU, 100)) == [1, 2, 4, 8] and asked == [1, 2, 4, 8, 16]
    asked = seconds(quick | {4: 1.1})
    assert list(measured_rates(spec, None, CPU, 100)) == [1, 2, 4] == asked
    seconds({})
    with pytest.raises(RuntimeError, match="can't allocate"):
        measured_rates(spec, None, CPU, 100)


def test_a_step_is_one_of_the_network_with_so_many_samples(make_run):
    spec, seen = make_run("sample.batch_size=auto", "sample.timestep_respacing=2").spec, []
    network = build_network(spec).eval()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    assert list(measured_rates(spec, network, CPU, 3)) == [1, 2] and set(seen) == {1, 2}
    assert seen.count(1) == seen.count(2) == 1 + batch_size.TIMED_STEPS


def test_it_is_measured_once_and_then_as_if_the_number_had_been_given(make_run, alone, seconds, capsys):
    run = make_run(*AUTO)
    assert alone(run, "train") == "done" and run.spec.sample.batch_size == "auto"
    assert _samples(run) == 0
    seconds({1: 0.3, 2: 0.3, 4: 0.3})
    assert alone(run, "sample") == "done"
    assert "auto is 4 from here on" in capsys.readouterr().out
    found = read_json(run.batch_size_file)
    assert (found["batch_size"], found["most"]) == (4, 10) and list(found["images_per_second"]) == ["1", "2", "4"]
    again = RunDir(run.path)
    assert again.spec.sample.batch_size == 4 and _samples(again) == 10 and again.is_done("sample")
    asked = seconds({})
    (run.samples / "chunk-00001.h5").unlink()
    run.samples_h5.unlink()
    assert alone(RunDir(run.path), "sample") == "done" and asked == []
    assert alone(RunDir(run.path), "evaluate") == "done"

    given = make_run(*AUTO[1:], "sample.batch_size=4", folder="given")
    assert alone(given, "train") == "done" and alone(given, "sample") == "done"
    assert samples(again) == samples(given)
    assert [file.read_bytes() for file in sorted(again.samples.glob("chunk-*"))] == [
        file.read_bytes() for file in sorted(given.samples.glob("chunk-*"))]


def test_two_processes_agree_and_each_has_work(make_run, ranks):
    run = make_run(*AUTO)
    assert ranks(run, "train") == 0 and ranks(run, "sample", 2) == 0
    found = read_json(run.batch_size_file)
    assert found["most"] == 5 and found["batch_size"] <= 4
    with h5py.File(run.samples_h5) as file:
        assert file["images"].chunks[0] == found["batch_size"]
        assert json.loads(file.attrs["settings"])["sample"]["batch_size"] == found["batch_size"]
        assert np.array_equal(file["sample_index"], range(10))


def test_the_other_ranks_need_not_see_the_file(make_run, tmp_path, monkeypatch):
    run, asked = make_run(*AUTO), []
    monkeypatch.setattr(batch_size, "on_main", lambda work: asked.append(work) or 4)  # rank 0's word
    assert batch_size.settle_batch_size(run, None, None).spec.sample.batch_size == 4 and len(asked) == 1
    write_json(run.batch_size_file, {"batch_size": 4})  # it sees the file before it has asked: all ranks ask, or none
    assert batch_size.settle_batch_size(RunDir(run.path), None, None).spec.sample.batch_size == 4 and len(asked) == 2


def test_a_killed_stage_goes_on_with_what_was_chosen(make_run, ranks, alone, seconds):
    run = trained(make_run(*AUTO[:1], "sample.num_samples=48", "diffusion.diffusion_steps=100"))
    both = ranks(run, "sample", 2, wait=False)
    deadline = time.monotonic() + 60
    while not list(run.samples.glob("chunk-*")):
        assert time.monotonic() < deadline and any(process.poll() is None for process in both)
        time.sleep(0.01)
    for process in both:
        process.kill()
    assert [process.wait() for process in both] == [-9, -9] and not run.samples_h5.exists()
    chosen = run.batch_size_file.read_bytes()
    asked = seconds(dict.fromkeys((1, 2, 4, 8), 0.1))
    assert alone(RunDir(run.path), "sample") == "done"
    assert asked == [] and run.batch_size_file.read_bytes() == chosen
    with h5py.File(run.samples_h5) as file:
        assert file["images"].chunks[0] == json.loads(chosen)["batch_size"] and len(file["images"]) == 48

    shutil.rmtree(run.samples)
    assert alone(RunDir(run.path), "sample") == "done"
    assert asked == [1, 2, 4, 8, 16] and read_json(run.batch_size_file)["batch_size"] == 8


def test_nothing_is_chosen_before_training_is_finished(make_run, alone, seconds):
    run, asked = make_run(*AUTO), seconds({1: 0.1})
    with pytest.raises(UserError, match="training is not finished"):
        alone(run, "sample")
    assert asked == [] and not run.samples.exists()


def test_slow_steps_are_timed_fewer_times(make_run, monkeypatch):
    spec, timed = make_run(*AUTO).spec, []

    def slow(work, steps, device):
        timed.append(work())
        return 0.3
    monkeypatch.setattr(batch_size, "seconds_of", slow)
    assert measured_rates(spec, build_network(spec).eval(), CPU, 1) == {1: pytest.approx(1 / 0.3)} and len(timed) == 2


def test_before_it_is_known_costs_are_those_of_a_stated_assumption(make_run):
    spec = make_run(*AUTO, "sample.num_samples=1000").spec
    assert run_cost(spec).chunks == -(-1000 // ASSUMED_BATCH)


def test_a_number_in_place_of_the_word_is_a_change_but_for_the_one_that_was_chosen(make_run):
    run, four, eight = make_run(*AUTO), ("sample.batch_size=4", *AUTO[1:]), ("sample.batch_size=8", *AUTO[1:])
    with pytest.raises(UserError, match="sample.batch_size: auto -> 4"):
        make_run(*four)
    write_json(run.batch_size_file, {"batch_size": 4})
    assert make_run(*AUTO, "train.log_interval=5").frozen.sample.batch_size == "auto"
    with pytest.raises(UserError, match="sample.batch_size: 4 -> 8"):
        make_run(*eight)
    assert make_run(*four).frozen.sample.batch_size == 4
    assert make_run(*AUTO).frozen.sample.batch_size == "auto"
    make_run(*four)
    shutil.rmtree(run.samples)
    with pytest.raises(UserError, match="sample.batch_size: 4 -> auto"):
        make_run(*AUTO)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"batch_size": "many"}', '{"batch_size": null}'])
def test_a_file_without_the_number_is_named(make_run, content):
    run = make_run(*AUTO)
    run.samples.mkdir()
    run.batch_size_file.write_text(content)
    with pytest.raises(UserError, match=f"{run.batch_size_file}: (has no batch_size; remove {run.samples}|not valid JSON)"):
        RunDir(run.path).spec


def test_chunks_whose_size_nobody_knows_are_not_gathered(make_run, alone, seconds):
    run = trained(make_run(*AUTO))
    seconds({1: 0.3, 2: 0.3, 4: 0.3})
    assert alone(run, "sample") == "done"
    gather_points(RunDir(run.path))
    run.batch_size_file.unlink()
    with pytest.raises(UserError, match=f"{run.batch_size_file}: missing.*iddpm sample {run.path}"):
        gather_points(RunDir(run.path))


@pytest.mark.parametrize("value", ["0", "many", "1.5", "true", "null"])
def test_other_words_are_refused(tmp_path, value):
    with pytest.raises(UserError, match="sample.batch_size.*must be a number of samples .* or auto"):
        (tmp_path / "spec.yaml").write_text("name: a\ndata: {path: digits, image_size: 32}\ntrain: {iterations: 1}\n")
        load(tmp_path / "spec.yaml", (f"sample.batch_size={value}",))
