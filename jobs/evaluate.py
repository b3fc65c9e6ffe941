"""The evaluation stage: Fréchet distance of the samples, bits/dim of held-out examples; into evaluation.json."""

import math
import re

import h5py
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from diffusion.losses import bits_per_dim
from jobs.board import Board
from jobs.build import build_diffusion
from jobs.data import open_data
from jobs.distributed import Group, any_rank, gather_rows, on_main
from jobs.errors import UserError
from jobs.features import Features, open_features
from jobs.files import atomic_path, write_json
from jobs.frechet import Moments, frechet_distance
from jobs.gather import check_samples
from jobs.interruption import Interruption
from jobs.pictures import to_x
from jobs.progress import Progress
from jobs.randomness import generator_for, randn_from
from jobs.rundir import RunDir
from jobs.sample import TELL_EVERY, asked_to_stop, load_sampler
from jobs.spec import Spec


class _Stopped(Exception):
    """Asked to stop; evaluation starts over next time."""


def evaluate(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Write evaluation.json: "done" or "interrupted". Raises UserError for samples, data or features that do not fit."""
    spec, settings = run.spec, run.spec.evaluate
    network, sampled_with = load_sampler(run, group)
    on_main(lambda: check_samples(run, sampled_with))

    result: dict = {"weights_sha256": sampled_with["weights_sha256"], "samples": spec.sample.num_samples}
    batches = -(-settings.nll_examples // settings.batch_size)
    own_batches = range(group.rank, batches, group.world_size)
    total = len(own_batches) * spec.diffusion.diffusion_steps
    progress = Progress(run.progress, "evaluate", max(total, 1), "steps") if group.is_main else None
    steps = 0

    def on_step() -> None:
        nonlocal steps
        steps += 1
        if (interruption.requested or steps % TELL_EVERY == 0) and asked_to_stop(group, interruption):
            raise _Stopped
        if progress:
            progress.update(steps)

    state = "failed"
    try:
        if "fid" in settings.metrics:
            result["fid"] = fid(run, group)
        if settings.nll_examples:
            terms = negative_log_likelihood(spec, network, group, own_batches, on_step)
            result["bits_per_dim"] = terms.pop("summary")
            if group.is_main:
                with atomic_path(run.path / "bits_per_dim.npz") as temporary:
                    np.savez(temporary, **terms)
        if group.is_main:
            result["headline"] = headline(result)
            record_hparams(run, result)
            write_json(run.evaluation, result)  # last: where it is, all is there
        state = "done"
    except _Stopped:
        state = "interrupted"
    finally:
        if progress:
            progress.close(progress.total if state == "done" else steps, state)
    return state


def fid(run: RunDir, group: Group) -> dict:
    """Fréchet distance between the samples and the reference data set, by the spec's features."""
    spec, data = run.spec, run.spec.data
    features = open_features(spec.evaluate.features, group.device)
    reference = open_data(spec.evaluate.reference, data.image_size, data.channels)
    with h5py.File(run.samples_h5, "r") as file:
        ours = moments(file["images"], features, group, spec.evaluate.batch_size)
    theirs = moments(reference.images, features, group, spec.evaluate.batch_size)
    try:
        value = frechet_distance(*ours.mean_and_covariance(), *theirs.mean_and_covariance())
    except ValueError as error:
        raise UserError(f"evaluate.metrics: fid: {error}") from error
    return {"value": value, "features": features.name, "features_sha256": features.sha256,
            "note": features.note, "samples": spec.sample.num_samples,
            "reference": spec.evaluate.reference, "reference_images": len(reference)}


def moments(images: h5py.Dataset | np.ndarray, features: Features, group: Group, batch_size: int) -> Moments:
    """Moments of the features of uint8 [N, H, W, C] `images`, each rank computing its share."""
    result, width = Moments(group.device), 0
    starts = range(0, len(images), batch_size)
    with torch.no_grad():
        for start in starts[group.rank::group.world_size]:
            batch = torch.from_numpy(np.array(images[start:start + batch_size])).permute(0, 3, 1, 2).to(group.device)
            extracted = features.extract(batch)
            width = extracted.shape[1]
            result.add(extracted)
    widest = torch.tensor(width, device=group.device)
    dist.all_reduce(widest, dist.ReduceOp.MAX)
    result.reduce(int(widest))
    return result


def negative_log_likelihood(spec: Spec, network, group: Group, own_batches: range, on_step) -> dict:
    """Bits/dim of the first nll_examples held-out examples over the full chain, every one once.

    Returns `summary` and arrays: total and prior [N] in the data's order, and the means over examples of vb, mse and
    xstart_mse [T], column t belonging to timestep t.
    """
    settings, data = spec.evaluate, spec.data
    held_out = open_data(settings.nll_data, data.image_size, data.channels, data.num_classes if data.class_cond else None)
    count = settings.nll_examples
    if count > len(held_out):
        raise UserError(f"evaluate.nll_examples: {count}, but {settings.nll_data} has {len(held_out)} examples")
    diffusion = build_diffusion(spec, group.device)
    # (index, total, prior) of every example: small. The terms per timestep are kept as sums.
    rows: list[Tensor] = [torch.zeros(0, 3, dtype=torch.float64, device=group.device)]
    sums = torch.zeros(3, diffusion.num_timesteps, dtype=torch.float64, device=group.device)
    stopped = False
    try:
        for number in own_batches:
            rows_of = slice(number * settings.batch_size, min((number + 1) * settings.batch_size, count))
            x_start = to_x(torch.from_numpy(np.array(held_out.images[rows_of])).to(group.device)).permute(0, 3, 1, 2)
            labels = {"y": torch.from_numpy(held_out.labels[rows_of]).to(group.device)} if data.class_cond else {}
            randn = randn_from(generator_for(group.device, settings.seed, "bits per dim", number), settings.batch_size)
            bound = bits_per_dim(diffusion, network, x_start, randn, clip_denoised=spec.sample.clip_denoised,
                                 model_kwargs=labels, on_step=on_step)
            index = torch.arange(rows_of.start, rows_of.stop, dtype=torch.float64, device=group.device)
            rows.append(torch.stack([index, bound.total.double(), bound.prior.double()], dim=1))
            sums += torch.stack([term.double().sum(dim=0) for term in (bound.vb, bound.mse, bound.xstart_mse)])
    except _Stopped:
        stopped = True
    if any_rank(stopped):
        raise _Stopped
    gathered = gather_rows(torch.cat(rows))
    dist.all_reduce(sums)
    _, total, prior = gathered[gathered[:, 0].argsort()].T.cpu().numpy()
    vb, mse, xstart_mse = (sums / count).cpu().numpy()
    error = total.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    summary = {"value": float(total.mean()), "standard_error": None if math.isnan(error) else float(error),
               "prior": float(prior.mean()), "examples": count, "data": settings.nll_data}
    return {"summary": summary, "total": total, "prior": prior, "vb": vb, "mse": mse, "xstart_mse": xstart_mse}


def headline(result: dict) -> dict[str, float]:
    """The numbers of evaluation.json that a table shows, by name; the name says which features FID rests on."""
    values = {}
    if "fid" in result:
        values[f"fid ({result['fid']['features']})"] = result["fid"]["value"]
    if "bits_per_dim" in result:
        values["bits/dim"] = result["bits_per_dim"]["value"]
    return values


def record_hparams(run: RunDir, result: dict) -> None:
    """The run's row in TensorBoard's HPARAMS table: what a sweep varies and the usual suspects, with the metrics."""
    spec = run.spec
    settings = {"noise_schedule": spec.diffusion.noise_schedule, "loss": spec.diffusion.loss, "lr": spec.train.lr,
                "diffusion_steps": spec.diffusion.diffusion_steps, "batch_size": spec.train.batch_size,
                "num_channels": spec.model.num_channels, "dropout": spec.model.dropout, "iterations": spec.train.iterations}
    for key, value in run.differs.items():
        settings.setdefault(key.split(".")[-1], value if isinstance(value, (bool, int, float, str)) else str(value))
    metrics = {"metrics/" + re.sub("[^A-Za-z0-9.]+", "_", name).strip("_"): value
               for name, value in result["headline"].items()}
    board = Board(run.tensorboard, spec.train.iterations)
    board.hparams(settings, metrics, spec.train.iterations)
    board.close()
