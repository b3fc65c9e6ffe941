"""A run folder of the reference code becomes a checkpoint, and training continues as there; numbers of six of its updates."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusion.losses import training_losses
from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_diffusion, build_network
from jobs.kinds.diffusion.trainable import DiffusionInputs
from jobs.kinds.protocol import Examples
from jobs.run.checkpoints import final_checkpoint, newest_checkpoint
from jobs.run.directory import RunDir
from jobs.spec.kinds import MODEL
from jobs.spec.reading.file import load
from jobs.training.foreign_run import find_run, read_optimizer
from jobs.training.state import new_state, resume
from jobs.training.step import TrainingState, train_step
from slurm.cli.weights import import_run

CASES = ["hybrid", "simple_anneal_decay"]
NO_GRADIENT = "qkv.bias"  # its k part: a bias of k does not change the output, and Adam makes a step of lr out of rounding


def written(facts: dict, **train) -> dict:
    """A spec of a golden training, with all that no weights tell."""
    net = facts["net"]
    classes = {"class_cond": True, "num_classes": net["num_classes"]} if net["num_classes"] else {}
    network = ("num_channels", "num_res_blocks", "channel_mult", "attention_resolutions", "num_heads")
    return {
        "name": "golden", "data": {"path": "digits", "image_size": 8, "channels": 3, **classes},
        "model": {key: net[key] for key in network} | {
            "num_heads_upsample": None, "use_new_attention_order": False},
        "diffusion": {"diffusion_steps": facts["diffusion_steps"], "noise_schedule": facts["noise_schedule"],
                      "loss": facts["loss"], "predict": "epsilon", "rescale_timesteps": facts["rescale_timesteps"]},
        "train": {"iterations": facts["steps"], "batch_size": facts["batch_size"], "lr": facts["lr"],
                  "weight_decay": facts["weight_decay"], "ema_rate": facts["ema_rate"],
                  "lr_anneal": facts["lr_anneal_steps"] > 0} | train,
        "sample": {"ema_rate": facts["ema_rate"][0]}, "evaluate": {"metrics": []}}


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    """Write a golden training's spec, changed, as x.yaml; return it resolved."""
    monkeypatch.chdir(tmp_path)

    def write(facts: dict, **train):
        Path("x.yaml").write_text(json.dumps(written(facts, **train)))
        return load("x.yaml").runs[0].spec
    return write


def inputs_of(arrays: dict[str, torch.Tensor], name: str, step: int, timesteps: int) -> DiffusionInputs:
    """The given images, noise, timesteps and weights of one update."""
    of_step = {key: arrays[f"{name}_{key}"][step] for key in ("x_start", "noise", "t", "weights")}
    labels = arrays[f"{name}_y"][step] if f"{name}_y" in arrays else None
    return DiffusionInputs(**of_step, input_noise=None, quarter=4 * of_step["t"] // timesteps, labels=labels, dropout_keys=None)


def update(state: TrainingState, arrays: dict[str, torch.Tensor], name: str, step: int) -> tuple[float, float]:
    """Do the update `step` with the given data; return its loss and the norm of its gradient."""
    given = inputs_of(arrays, name, step, state.kind.diffusion.num_timesteps)
    state.kind.inputs = lambda examples, draw: given
    found = train_step(state, Examples(given.x_start, given.labels), step)
    return (found.losses["loss"] * given.weights).mean().item(), found.grad_norms[MODEL].item()


def assert_end_is_golden(golden, name: str, state: TrainingState) -> None:
    """Compare weights and averages after six updates: the difference is small beside the way moved."""
    arrays, part = golden.tensors("training6"), state.parts[MODEL]
    keys = list(golden.facts("training6")[name]["state_dict"])
    start = golden.formula_weights(golden.facts("training6")[name]["state_dict"])
    ours = {"weights": part.network.state_dict()} | {f"ema_{rate}": average for rate, average in part.averages.items()}
    moved = {key: (part.network.state_dict()[key] - start[key]).norm().item() for key in keys}
    np.testing.assert_allclose([moved[key] for key in keys if NO_GRADIENT not in key],
                               [value for key, value in zip(keys, arrays[f"{name}_moved"].tolist(), strict=True)
                                if NO_GRADIENT not in key], rtol=2e-3)
    for what, values in ours.items():
        off = way = 0.0
        for number, key in enumerate(keys):
            if NO_GRADIENT in key:
                continue
            flat = values[key].flatten()
            head = flat.repeat(8)[:8] if len(flat) < 8 else flat[:8]
            off += (head - arrays[f"{name}_{what}_head"][number]).square().sum().item() * len(flat) / 8
            way += arrays[f"{name}_moved"][number].item() ** 2
            assert flat.double().norm().item() == pytest.approx(arrays[f"{name}_{what}_norm"][number].item(), rel=1e-5)
        assert off ** 0.5 <= 1e-4 * way ** 0.5, what


@pytest.mark.parametrize("name", CASES)
def test_six_updates_are_those_of_the_reference(golden, spec_of, group, name):
    facts, arrays = golden.facts("training6")[name], golden.tensors("training6")
    state = new_state(spec_of(facts), group)
    part = state.parts[MODEL]
    start = golden.formula_weights(facts["state_dict"])
    part.network.load_state_dict(start)
    for average in part.averages.values():
        for key, value in average.items():
            value.copy_(start[key])
    found = [update(state, arrays, name, step) for step in range(facts["steps"])]
    np.testing.assert_allclose([loss for loss, _ in found], arrays[f"{name}_loss"], rtol=1e-4)
    np.testing.assert_allclose([norm for _, norm in found], arrays[f"{name}_grad_norm"], rtol=1e-4)
    assert_end_is_golden(golden, name, state)


def reference_training(golden, spec, name: str, steps: int, form: str) -> None:
    """Train as the reference's TrainLoop does, in plain torch, and write its three kinds of files into the folder `there`.

    `form` of the optimiser's parameters: "each", "flat" (improved-diffusion's fp16) or "two" (guided-diffusion's).
    """
    facts, arrays = golden.facts("training6")[name], golden.tensors("training6")
    network, diffusion = build_network(spec), build_diffusion(spec, "cpu")
    network.load_state_dict(golden.formula_weights(facts["state_dict"]))
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=facts["lr"], weight_decay=facts["weight_decay"])
    averages = {rate: [parameter.detach().clone() for parameter in parameters] for rate in facts["ema_rate"]}
    for step in range(steps):
        if facts["lr_anneal_steps"]:
            optimizer.param_groups[0]["lr"] = facts["lr"] * (1 - step / facts["lr_anneal_steps"])
        given = inputs_of(arrays, name, step, diffusion.num_timesteps)
        losses = training_losses(diffusion, network, given.x_start, given.t, given.noise, facts["loss"],
                                 {} if given.labels is None else {"y": given.labels})
        optimizer.zero_grad()
        (losses["loss"] * given.weights).mean().backward()
        optimizer.step()
        for rate, average in averages.items():
            for kept, parameter in zip(average, parameters, strict=True):
                kept.mul_(rate).add_(parameter.detach(), alpha=1 - rate)
    Path("there").mkdir(exist_ok=True)
    torch.save(network.state_dict(), f"there/model{steps:06}.pt")
    names = list(dict(network.named_parameters()))
    for rate, average in averages.items():
        torch.save(dict(zip(names, average, strict=True)), f"there/ema_{rate}_{steps:06}.pt")
    saved = optimizer.state_dict()
    if form != "each":
        entries, groups = [saved["state"][number] for number in range(len(names))], list(_flat_groups(parameters, form))
        saved["state"] = {number: {"step": entries[0]["step"]} | {
            moment: torch.cat([entries[index][moment].flatten() for index in indices]).view(shape)
            for moment in ("exp_avg", "exp_avg_sq")} for number, (indices, shape) in enumerate(groups)}
        saved["param_groups"][0]["params"] = list(range(len(groups)))
    torch.save(saved, f"there/opt{steps:06}.pt")
    Path("there/progress.csv").write_text("step,loss\n")


def _flat_groups(parameters, form: str) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    everything = range(len(parameters))
    if form == "flat":
        yield list(everything), (-1,)
    else:
        yield [index for index in everything if parameters[index].ndim <= 1], (-1,)
        yield [index for index in everything if parameters[index].ndim > 1], (1, -1)


@pytest.mark.parametrize("name, form", [("hybrid", "each"), ("hybrid", "flat"), ("simple_anneal_decay", "two")])
def test_a_run_folder_trains_on_to_where_the_reference_ends(golden, spec_of, group, name, form, capsys):
    facts, arrays = golden.facts("training6")[name], golden.tensors("training6")
    spec = spec_of(facts)
    reference_training(golden, spec, name, 3, form)
    import_run(Path("there"), Path("x.yaml"), [], Path("runs"), None)
    assert "trains on from step 3" in capsys.readouterr().out
    run = RunDir(Path("runs/golden/run"))
    assert (run.trained_steps(), run.spec) == (3, spec) and not run.is_done("train")
    state = new_state(run.spec, group)
    assert resume(state, run) == 3
    found = [update(state, arrays, name, step) for step in range(3, 6)]
    np.testing.assert_allclose([loss for loss, _ in found], arrays[f"{name}_loss"][3:], rtol=1e-4)
    np.testing.assert_allclose([norm for _, norm in found], arrays[f"{name}_grad_norm"][3:], rtol=1e-4)
    assert_end_is_golden(golden, name, state)
    imported = json.loads((run.path / "provenance.json").read_text())["imported"]
    assert imported["step"] == 3 and set(imported["files"]) == {file.name for file in Path("there").glob("*.pt")}


@pytest.fixture
def folder(golden, spec_of):
    """A run folder of three updates, with its spec."""
    spec = spec_of(golden.facts("training6")["hybrid"])
    reference_training(golden, spec, "hybrid", 3, "each")
    return spec


def imported(*overrides: str, step: int | None = None) -> RunDir:
    import_run(Path("there"), Path("x.yaml"), overrides, Path("runs"), step)
    return RunDir(Path("runs/golden/run"))


def test_the_folder_tells_averages_and_the_optimisers_settings(golden, folder, capsys):
    spec = written(golden.facts("training6")["hybrid"])
    spec["train"] = {"iterations": 6, "batch_size": 6}
    Path("x.yaml").write_text(json.dumps({key: value for key, value in spec.items() if key != "sample"}))
    run = imported()
    assert run.spec.train.ema_rate == [0.9, 0.99] and run.spec.sample.ema_rate == 0.99 and run.spec.train.lr == 1e-3
    assert "train.ema_rate=[0.9,0.99]" in capsys.readouterr().out
    assert newest_checkpoint(run).training_state()["optimizer"][MODEL]["state"][0]["step"] == 3


def test_a_folder_at_the_last_step_is_a_finished_training(folder):
    run = imported("train.iterations=3")
    assert run.is_done("train") and final_checkpoint(run).weights("0.99")


def test_the_newest_whole_step_is_taken_and_another_on_demand(golden, folder, capsys):
    reference_training(golden, folder, "hybrid", 2, "each")
    torch.save({}, "there/model000005.pt")  # broken off before its optimiser was written
    found, notes = find_run(Path("there"))
    assert found.step == 3 and notes == ["there/model000005.pt: passed over, since there is no opt000005.pt"]
    assert imported(step=2).trained_steps() == 2
    with pytest.raises(UserError, match="has no modelNNNNNN.pt and optNNNNNN.pt of step 5; it has those of 2, 3"):
        find_run(Path("there"), 5)


@pytest.mark.parametrize("spoil, words", [
    (lambda: Path("there/opt000003.pt").unlink(), "no run folder of the reference code; it needs"),
    (lambda: Path("there/ema_0.9_000003.pt").unlink(), "train.ema_rate has 0.9, but the averages of step 3 there are 0.99;"),
    (lambda: torch.save([1], "there/opt000003.pt"), "opt000003.pt: not the state dict of an optimiser"),
    (lambda: changed(lambda saved: saved["state"].pop(5)), "the state of 126 parameters|parameter 5 has no exp_avg"),
    (lambda: changed(lambda saved: saved["state"][1].update(exp_avg=torch.zeros(3))), r"exp_avg of parameter 1 is \(3,\), but "
     r"time_embed.0.bias of the spec's network is \(256,\)"),
    (lambda: changed(lambda saved: saved["state"][1]["exp_avg"].fill_(float("nan"))), "exp_avg: 256 of 256 values are not"),
    (lambda: changed(lambda saved: saved["state"][1].update(step=-1)), "does not say how many updates it has done"),
    (lambda: changed(lambda saved: saved["state"][1].update(step=torch.tensor(1j))), "does not say how many updates"),
    (lambda: changed(lambda saved: saved["state"][1]["exp_avg_sq"].sub_(1)), "exp_avg_sq of time_embed.0.bias has neg"),
    (lambda: changed(lambda saved: saved["param_groups"][0]["params"].reverse()), "its parameters are not numbered 0, 1, ..."),
    (lambda: changed(lambda saved: saved["param_groups"][0].update(eps=1e-6)), "its AdamW has eps 1e-06; training here"),
    (lambda: Path("there/opt000003.pt").write_bytes(b"junk"), "opt000003.pt: not a plain state dict"),
])
def test_what_does_not_fit_is_refused_and_nothing_is_written(folder, spoil, words):
    spoil()
    with pytest.raises(UserError, match=words):
        imported()
    assert not Path("runs").exists()


def changed(change) -> None:
    saved = read_optimizer(Path("there/opt000003.pt"))
    change(saved)
    torch.save(saved, "there/opt000003.pt")


def test_a_spec_that_ends_before_the_folder_is_refused(folder):
    with pytest.raises(UserError, match="its training is at step 3, but train.iterations is 2; give train.iterations=3 or more"):
        imported("train.iterations=2")
    with pytest.raises(UserError, match="sample.at names step 2, but an imported run has no weights before its step 3"):
        imported("sample.at=[2, last]")
    with pytest.raises(UserError, match="guidance.at names step 2, but an imported run has no weights before its step 3; name"):
        imported("sample.guidance={kind: autoguidance, at: 2, scale: 2}")
    imported()
    with pytest.raises(UserError, match="has a checkpoint of step 3; import into a new run"):
        imported()


@pytest.mark.slow
def test_a_folder_of_our_own_state_ends_with_the_weights_of_the_run_that_it_is_from(make_run, alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = make_run("model.dropout=0.5", "model.resblock_updown=true", "train.keep_interval=4", "evaluate.nll_examples=0")
    assert alone(whole, "train") == "done"
    saved, there = whole.checkpoints / "step-00000004", Path("there")
    there.mkdir()
    torch.save(load_file(saved / "model.safetensors"), there / "model000004.pt")
    torch.save(load_file(saved / "ema-0.9.safetensors"), there / "ema_0.9_000004.pt")
    torch.save(torch.load(saved / "training.pt", weights_only=True)["optimizer"][MODEL], there / "opt000004.pt")
    import_run(there, whole.spec_file, ["name=again"], Path("runs"), None)
    again = RunDir(Path("runs/again/run"))
    assert alone(again, "train") == "done"
    for name in ("model.safetensors", "ema-0.9.safetensors"):
        ours, theirs = (load_file(run.checkpoints / "step-00000012" / name) for run in (again, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert alone(again, "sample") == "done" and again.samples_h5.is_file()
