"""Find a chunk whose values are not finite, and the step where that began: cast to uint8, NaN would pass for black pixels."""

from collections.abc import Callable, Iterator

import torch

from jobs.errors import StageFailed
from jobs.finite import all_finite
from jobs.kinds.protocol import Generated
from jobs.sampling.partial import Partial

CHECK_EVERY = 100
"""Steps between two looks at the values. A look waits for the device, which takes less than a step."""


def finite_steps(chunk: str, steps_from: Callable[[torch.Generator, Partial | None], Iterator[Generated]],
                 stream: Callable[[], torch.Generator], generator: torch.Generator, begun: Partial | None) -> Iterator[Generated]:
    """Yield steps_from(generator, begun): the steps of a chunk from `begun`, None for its beginning.

    `chunk` names the chunk, `stream()` returns its random stream from the beginning. Raises StageFailed that names the first
    step that is not finite; to find that step, the steps since the last look are computed once more.
    """
    good = begun
    for step in steps_from(generator, begun):
        if step.left % CHECK_EVERY == 0:  # the last step, which leaves 0, is one of these
            if not is_finite(step):
                since = steps_from(stream(), good)
                first = next(again.left for again in since if again.left <= step.left or not is_finite(again))
                raise StageFailed(f"{chunk} is not finite since reverse step {first}: the network gave NaN or infinity. The "
                                  "chunk was not written.", kind="not finite")
            good = state_after(step, generator)
        yield step


def is_finite(step: Generated) -> bool:
    """Return whether the image, and all that the next step needs, are finite."""
    return all_finite([step.x, *(tensor for tensor in step.state.values() if tensor.is_floating_point())])


def state_after(step: Generated, generator: torch.Generator) -> Partial:
    """Return the state of a chunk after `step`, copied to the CPU, from which the chunk can go on."""
    return Partial(step.left, {name: tensor.cpu().numpy() for name, tensor in step.state.items()}, generator.get_state().numpy())
