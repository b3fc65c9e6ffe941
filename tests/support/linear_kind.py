"""A second kind of model, which is no diffusion at all: a linear autoencoder, and a critic that learns where it errs.

`ADD` is the one line that puts the kind into the table; `linear_model.py` is the half that needs torch.
"""

from jobs.spec.fields import Count, Section
from jobs.spec.kinds import KINDS, MODEL, Description, OwnNumber
from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.references import TrainedRun
from jobs.spec.sections import Evaluate, Spec, SpecAsWritten, contradictions
from jobs.spec.stages import STAGES

ADD = ("linear", "linear_kind")
STEPS = 20  # a sample is drawn, then encoded and decoded so often


class Linear(Section):
    latent: Count = 4
    teacher: TrainedRun | None = None
    """A run to wait for; for tests of the order in which runs are done."""


class LinearSpecAsWritten(SpecAsWritten):
    linear: Linear = Linear()


class LinearSpec(LinearSpecAsWritten, Spec):
    evaluate: Evaluate


class LinearKind:
    model, written, resolved = "linear_model", LinearSpecAsWritten, LinearSpec
    stages = STAGES
    number_labels = {"reconstruction": Number("reconstruction error", basis="mean squared error")}

    def resolve(self, written):
        evaluate = Evaluate(**dict(written.evaluate) | {"reference": written.evaluate.reference or written.data.path})
        return LinearSpec(**dict(written) | {"evaluate": evaluate})

    def contradictions(self, spec):
        return contradictions(spec, [])

    def samplings(self, spec):
        return []

    def steps(self, spec):
        return STEPS

    def evaluations(self, spec):
        return STEPS

    def guide(self, spec):
        return None

    def guide_problems(self, spec, other):
        return []

    def records_steps(self, spec):
        return False

    def sampling_facts(self, spec):
        return {"sampling_steps": STEPS}

    def sampling_attributes(self, spec):
        return {}

    def identity(self, spec):
        return {"linear": spec.linear.model_dump()}

    def layers(self, spec):
        size, latent = pixels(spec), spec.linear.latent
        return {MODEL: [dense("encode", size, latent), dense("decode", latent, size)], "critic": [dense("judge", size, 1)]}

    def numbers(self, spec):
        return [OwnNumber("reconstruction error", "reconstruction", spec.train.iterations, (), 12, 4, 1)]

    def held_out(self, spec):
        return []

    def told_by_weights(self, shapes, written):
        return {}

    def untold_by_weights(self, written, told):
        return {}

    def headline_settings(self, spec):
        return {"latent": spec.linear.latent}

    def description(self, spec):
        return Description("Linear autoencoder", "L = E ‖x − D E (x + 0.1 ε)‖²", "a test", ("Draw images.", "Take a step."),
                           ("Draw noise.", "Encode and decode it 20 times."), "O(iterations · B · pixels)", "O(20 · pixels)")


def pixels(spec) -> int:
    return spec.data.channels * spec.data.image_size ** 2


def dense(name: str, inputs: int, outputs: int) -> LayerCost:
    return LayerCost(name, "dense", 1, outputs, (inputs + 1) * outputs, 2, 2 * inputs * outputs, inputs, inputs)


KIND = LinearKind()


def add() -> None:
    KINDS.setdefault(*ADD)
