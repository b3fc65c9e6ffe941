"""Train a run: the loop around `train_step`, from the newest checkpoint to the last iteration."""

from collections.abc import Mapping

from jobs.data.dataset import open_data
from jobs.errors import StageFailed, UserError
from jobs.kinds.protocol import Preview
from jobs.parallel.agreement import Agreement
from jobs.parallel.compiling import uncompiled
from jobs.parallel.group import Group, on_main
from jobs.parallel.interruption import Interruption
from jobs.run.board import Board
from jobs.run.directory import RunDir
from jobs.run.preflight import check_same_data
from jobs.run.progress import Progress, note
from jobs.run.study.sharing import sampled_steps
from jobs.spec.averages import snapshot_steps
from jobs.spec.sections import batch_contradictions
from jobs.training.batches import Batches
from jobs.training.divergence import check_steps, check_weights
from jobs.training.log import Log
from jobs.training.state import keep_snapshot, new_state, resume, save
from jobs.training.step import TrainingState, train_step


def train(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Train `run` to its last iteration and return "done", or return "interrupted" after a checkpoint of the last step.

    Raises UserError if the data or the checkpoint do not fit the spec, StageFailed if training diverges.
    """
    for key, problem in batch_contradictions(run.spec.train, group.world_size):  # torchrun may start another number of ranks
        raise UserError(f"{key}: {problem}")
    progress, outcome = Progress(run.progress if group.is_main else None, "train"), "failed"
    try:
        outcome = _train(run, group, interruption, progress)
    finally:
        progress.close(None, outcome)
    return outcome


def _train(run: RunDir, group: Group, interruption: Interruption, progress: Progress) -> str:
    """`train`, without what it reports."""
    spec, settings = run.spec, run.spec.train
    progress.prepare("reading the data")
    data = open_data(spec.data.path, spec.data.image_size, spec.data.channels, spec.data.classes)
    progress.prepare("compiling the networks" if settings.compile else "building the networks")
    state = new_state(spec, group)
    progress.prepare("compiling the networks" if settings.compile else "looking for a checkpoint")
    step = resume(state, run)
    progress.prepare("reading the data")
    on_main(lambda: check_same_data(run, data))
    board = Board(run.tensorboard if group.is_main else None, step)
    if step == 0:
        board.spec(spec)
        if group.is_main:
            show(board, state.kind.first_previews(data), step)
    progress.start(settings.iterations, step)
    log = Log(state, board, progress, step)
    agreement = Agreement(interruption)
    sampled = on_main(lambda: sampled_steps(run))  # the last step is among them
    snapshots = snapshot_steps(settings.iterations, settings.ema_snapshots) if settings.ema_sigma_rel else []
    outcome, saved = "done", step
    try:
        for examples in Batches(spec, data, group)(step, settings.iterations):
            if agreement.to_stop():
                outcome = "interrupted"
                break
            log.before(examples, step)
            result = train_step(state, examples, step)
            step += 1
            log.after(result)
            if log.is_due(step):
                check_steps(run, state, result, step, saved)
                log.write(result, step)
            if step in snapshots:
                check_weights(run, state, step, saved)
                progress.prepare("keeping a snapshot of the averages")
                keep_snapshot(state, run, step)
            if step % settings.save_interval == 0 or step in sampled:
                check_weights(run, state, step, saved)
                progress.prepare("saving a checkpoint")
                board.flush()  # a run that is killed later resumes here, and logs no earlier step again
                save(state, run, step)
                saved = step
                show_samples(state, board, step)
            log.restart(step)
            progress.update(step)
        agreement.finish()
        if outcome == "done" and group.is_main and (skipped := max(int(part.skipped) for part in state.parts.values())):
            note(f"{skipped:,} of {step:,} training steps were skipped, because their gradient was not finite")
        if outcome == "interrupted" and step > saved:
            check_weights(run, state, step, saved)
            save(state, run, step)
    finally:
        board.close()
    return outcome


def show(board: Board, previews: Mapping[str, Preview], step: int) -> None:
    """Write pictures to TensorBoard under their names."""
    for name, preview in previews.items():
        board.images(name, preview.images, step, preview.columns)


def show_samples(state: TrainingState, board: Board, step: int) -> None:
    """Show quick pictures that the first average of each averaged network makes; the main rank alone does."""
    averages = {name: next(iter(part.averages.values())) for name, part in state.parts.items() if part.averages}
    if state.group.is_main and averages:
        try:
            with uncompiled(state.spec.train.compile):
                show(board, state.kind.previews(averages), step)
        except StageFailed as error:  # the sampling stage fails for that; here later weights may still be good
            note(f"no sample grids in TensorBoard after step {step}: {error}")
