"""The training stage. `train_step` is one update; `train` is the loop around it, from the newest checkpoint on.

The way of a step: batches -> losses.training_losses -> gaussian -> unet -> layers; then the update here, and ema.
"""

import contextlib
import resource
import time
import warnings
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from diffusion.ema import update_ema
from diffusion.gaussian import GaussianDiffusion
from diffusion.losses import training_losses
from diffusion.networks.unet import UNet
from diffusion.timestep_samplers import TimestepSampler
from jobs.data.dataset import open_data
from jobs.errors import StageFailed, UserError
from jobs.kinds.diffusion import build_diffusion, build_network, build_timestep_sampler
from jobs.kinds.previews import denoising_preview, noising_preview
from jobs.parallel.agreement import Agreement
from jobs.parallel.compiling import check_compiler, compile_options
from jobs.parallel.group import Group, gather_rows, on_main
from jobs.parallel.interruption import Interruption
from jobs.parallel.precision import autocasting
from jobs.randomness import derived_seed
from jobs.run.board import Board, Tally
from jobs.run.checkpoints import Checkpoint, load_weights, newest_checkpoint, save_checkpoint, weights_name
from jobs.run.directory import RunDir
from jobs.run.preflight import check_same_data
from jobs.run.progress import Progress, note
from jobs.spec.samplings import samplings
from jobs.spec.sections import Spec, Train, batch_contradictions
from jobs.training.batches import Batch, Batches
from jobs.training.gradient_noise import GradientNoise, part_size, part_square

MAX_BAD_STEPS = 50  # fp16's scale starts at 2**16: some 20 overflows in a row are its search for one that fits


@dataclass
class Learner:
    """Everything that an update reads and changes."""

    spec: Spec
    group: Group
    network: UNet
    ddp: DistributedDataParallel
    diffusion: GaussianDiffusion
    sampler: TimestepSampler
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    emas: dict[float, dict[str, Tensor]]
    bad_steps: Tensor
    """On the device: how many of the last steps in a row had a gradient that was not finite."""
    noise: GradientNoise = field(default_factory=GradientNoise)
    parameters: list[Tensor] = field(init=False)

    def __post_init__(self):
        self.parameters = list(self.network.parameters())


def train_step(learner: Learner, batch: Batch, step: int) -> tuple[dict[str, Tensor], Tensor]:
    """One update from this rank's share of the global batch: its loss terms [n], and the global gradient's norm.

    A gradient that is not finite leaves weights and optimiser as they are. Nothing here waits for the device, except that
    loss-second-moment sampling must read the losses.
    """
    train, group = learner.spec.train, learner.group
    torch.manual_seed(derived_seed(train.seed, "dropout", step, group.rank))
    set_lr(learner.optimizer, lr_at(step, train))
    learner.optimizer.zero_grad()

    terms = []
    microbatches = batch.split(train.microbatch or len(batch.t))
    for micro in microbatches:
        last = micro is microbatches[-1]
        with contextlib.nullcontext() if last else learner.ddp.no_sync():
            losses = training_losses(learner.diffusion, autocasting(learner.ddp, train.precision), micro.x_start, micro.t,
                                     micro.noise, learner.spec.diffusion.loss, micro.model_kwargs)
            # The mean over the whole share, microbatch by microbatch; DDP then takes the mean over ranks.
            loss = (losses["loss"] * micro.weights).sum() / len(batch.t)
            learner.scaler.scale(loss).backward()
        terms.append({key: value.detach() for key, value in losses.items()})
    joined = {key: torch.cat([part[key] for part in terms]) for key in terms[0]}

    grad_norm = apply_gradients(learner)
    for rate, average in learner.emas.items():
        update_ema(list(average.values()), learner.parameters, rate)
    if train.schedule_sampler != "uniform":
        learner.sampler.update(gather_rows(batch.t).cpu(), gather_rows(joined["loss"]).cpu())
    return joined, grad_norm


def apply_gradients(learner: Learner) -> Tensor:
    """Clip, and let the optimiser step unless the gradient is not finite. Returns its norm, unscaled and unclipped."""
    optimizer, scaler, train = learner.optimizer, learner.scaler, learner.spec.train
    scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in learner.parameters]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if train.grad_clip:
        torch.nn.utils.clip_grads_with_norm_(learner.parameters, train.grad_clip, grad_norm)
    bad = ~torch.isfinite(grad_norm)
    learner.bad_steps = (learner.bad_steps + 1) * bad
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    else:
        # The fused kernel's own way to skip an update without asking the device; what GradScaler uses too.
        optimizer.found_inf = bad.float()
        optimizer.step()
    return grad_norm


def lr_at(step: int, train: Train) -> float:
    """Learning rate of the update that ends step `step` (from 0): linear warm-up, then constant or linear to 0."""
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    return train.lr * warm * (1 - step / train.iterations if train.lr_anneal else 1.0)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def train(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Train `run` to its last iteration: "done", or "interrupted" with a checkpoint of the step it was stopped at.

    Raises UserError for data or a checkpoint that does not fit, StageFailed where training diverges.
    """
    spec, settings = run.spec, run.spec.train
    for key, problem in batch_contradictions(settings, group.world_size):  # torchrun may start other numbers of ranks
        raise UserError(f"{key}: {problem}")
    data = open_data(spec.data.path, spec.data.image_size, spec.data.channels,
                     spec.data.num_classes if spec.data.class_cond else None)
    learner = new_learner(spec, group)
    step = resume(learner, run)
    on_main(lambda: check_same_data(run, data))
    board = Board(run.tensorboard if group.is_main else None, step)
    if step == 0:
        board.spec(spec)
        board.images("noising", noising_preview(learner.diffusion, data, settings.seed), 0, columns=9)
    progress = Progress(run.progress, "train", settings.iterations, "steps", step) if group.is_main else None
    agreement = Agreement(interruption)
    tally = Tally(loss_keys(spec), learner.diffusion.num_timesteps, group.device)
    sampled = {sampling.step for sampling in samplings(spec)}  # the last step is among them
    part = part_size(settings.batch_size, settings.batch_size // group.world_size, settings.microbatch)
    state, logged, saved = "done", (time.monotonic(), step), step
    try:
        for batch in Batches(spec, data, learner.sampler, group)(step, settings.iterations):
            if agreement.to_stop():
                state = "interrupted"
                break
            to_log = (step + 1) % settings.log_interval == 0 or step + 1 == settings.iterations
            of_part = part_square(learner, batch, part, step) if to_log and part else None
            terms, grad_norm = train_step(learner, batch, step)
            tally.add(terms, batch.t, batch.weights)
            step += 1

            if to_log:
                check_progress(learner, run, step, saved)
                values = tally.collect() | {"grad_norm": grad_norm.item(), "lr": lr_at(step - 1, settings),
                                            "samples": step * settings.batch_size, **machine_values(learner, step, logged)}
                if of_part and isfinite(of_part) and isfinite(values["grad_norm"]):
                    values |= learner.noise.add(of_part, part, values["grad_norm"] ** 2, settings.batch_size)
                board.scalars(values, step)
                if progress:
                    progress.loss = values["loss"]
            if step % settings.save_interval == 0 or step in sampled:
                board.flush()  # a killed run goes on from here and will not log again what came before
                save(learner, run, step)
                saved = step
                show_samples(learner, board, step)
            if step % settings.log_interval == 0:
                logged = time.monotonic(), step  # from here on: saving and previews do not count as training
            if progress:
                progress.update(step)
        agreement.finish()
        if state == "interrupted" and step > saved:
            save(learner, run, step)
    except BaseException:
        state = "failed"
        raise
    finally:
        board.close()
        if progress:
            progress.close(step, state)
    return state


def new_learner(spec: Spec, group: Group) -> Learner:
    """A network as the seed initialises it, the same on every rank, with all that trains it."""
    torch.manual_seed(derived_seed(spec.train.seed, "weights"))
    network = build_network(spec, spec.train.gradient_checkpointing).to(group.device)
    device_ids = [group.device.index] if group.device.type == "cuda" else None
    # Without static_graph, which was no faster (tests/benchmarks/train.py ranks).
    ddp = DistributedDataParallel(compiled(network, spec, group), device_ids=device_ids, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=spec.train.lr, weight_decay=spec.train.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(group.device.type, enabled=spec.train.precision == "fp16")
    emas = {rate: {key: value.detach().clone() for key, value in network.named_parameters()} for rate in spec.train.ema_rate}
    return Learner(spec, group, network, ddp, build_diffusion(spec, group.device), build_timestep_sampler(spec), optimizer,
                   scaler, emas, torch.zeros((), dtype=torch.int64, device=group.device))


def compiled(network: UNet, spec: Spec, group: Group) -> torch.nn.Module:
    """What shares the parameters of `network` and is trained in its place; previews and checkpoints use the network itself."""
    if not spec.train.compile:
        return network
    check_compiler("train.compile", group.device)
    # Compiled as a whole: cut at DDP's buckets the network could not have gradient checkpointing.
    torch._dynamo.config.optimize_ddp = False
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of 1x1 convolutions; they are copied
    return torch.compile(network, **compile_options(spec.train.compile))


def resume(learner: Learner, run: RunDir) -> int:
    """Take over the newest whole checkpoint, the same on every rank. Returns the number of updates behind it."""
    checkpoint: Checkpoint | None = on_main(lambda: newest_checkpoint(run, report=note))
    settle_buckets(learner)
    if checkpoint is None:
        return 0
    load_weights(learner.network, checkpoint.weights(None), checkpoint.path / weights_name(None))
    for rate, average in learner.emas.items():
        for key, value in checkpoint.weights(rate).items():
            average[key].copy_(value)
    state = checkpoint.training_state()
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scaler.load_state_dict(state["scaler"])
    learner.sampler.load_state_dict(state["timestep_sampler"])
    learner.bad_steps.fill_(state["bad_steps"])
    learner.noise = GradientNoise(**state.get("gradient_noise", {}))  # older checkpoints have none
    if learner.group.is_main:
        note(f"going on from {checkpoint.path}")
    return checkpoint.step


def settle_buckets(learner: Learner) -> None:
    """One backward pass for nothing: DDP lays out its buckets anew after the first, which changes the order of sums.

    Without it the first step after a resume would add up in another order than the same step of an unbroken run. With
    train.compile this is also where the network is compiled, for the batches that it is going to see.
    """
    data, train, device = learner.spec.data, learner.spec.train, learner.group.device
    rows = (train.microbatch or train.batch_size // learner.group.world_size) if train.compile else 1
    x = torch.zeros(rows, data.channels, data.image_size, data.image_size, device=device)
    labels = {"y": torch.zeros(rows, dtype=torch.int64, device=device)} if data.class_cond else {}
    for _ in range(2):
        autocasting(learner.ddp, train.precision)(x, x.new_zeros(rows), **labels).float().sum().backward()
    learner.optimizer.zero_grad()


def save(learner: Learner, run: RunDir, step: int) -> None:
    """Write a checkpoint from the main rank; the state is the same on all."""
    if learner.group.is_main:
        state = {"optimizer": learner.optimizer.state_dict(), "scaler": learner.scaler.state_dict(),
                 "timestep_sampler": learner.sampler.state_dict(), "bad_steps": int(learner.bad_steps),
                 "gradient_noise": vars(learner.noise)}
        save_checkpoint(run, step, learner.network.state_dict(), learner.emas, state)


def check_progress(learner: Learner, run: RunDir, step: int, saved: int) -> None:
    """Raise StageFailed where too many updates in a row were skipped."""
    bad_steps = int(learner.bad_steps)
    if bad_steps >= MAX_BAD_STEPS:
        advice = "a lower train.lr, train.grad_clip or train.warmup"
        if learner.spec.train.precision == "fp16":
            advice += ", or precision: bf16"
        kept = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint"
        raise StageFailed(f"{run.path}: the gradient was not finite in each of the last {bad_steps} steps (step {step}); the "
                          f"weights were left alone meanwhile, {kept}. Try {advice}, under another name.", kind="diverged")


def loss_keys(spec: Spec) -> list[str]:
    """The loss terms that `training_losses` gives for this objective."""
    return {"simple": ["loss", "mse"], "vlb": ["loss"], "vlb_unscaled": ["loss"]}.get(spec.diffusion.loss, ["loss", "mse", "vb"])


def machine_values(learner: Learner, step: int, logged: tuple[float, int]) -> dict[str, float]:
    """Speed since the last log, memory, and the loss scale where there is one."""
    since, first = logged
    images = (step - first) * learner.spec.train.batch_size
    values = {"images_per_second": images / (time.monotonic() - since)}
    if learner.group.device.type == "cuda":
        values["memory_gib"] = torch.cuda.max_memory_allocated() / 2 ** 30
    else:
        values["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    if learner.scaler.is_enabled():
        values["loss_scale"] = learner.scaler.get_scale()
    return values


def show_samples(learner: Learner, board: Board, step: int) -> None:
    """A few quick samples from the first average, and one's way out of the noise."""
    if learner.group.is_main and learner.emas:
        rate, weights = next(iter(learner.emas.items()))
        samples, strip = denoising_preview(learner.spec, learner.network, weights, learner.group.device)
        board.images(f"samples_ema_{rate}", samples, step, columns=4)
        board.images("denoising", strip, step, columns=len(strip))
