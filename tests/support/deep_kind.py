"""A kind of model for tests of specs alone: it has sections inside a section, and one of them may be null."""

from linear_kind import LinearKind

from jobs.spec.fields import Count, Section
from jobs.spec.sections import Evaluate, Spec, SpecAsWritten

ADD = ("deep", "deep_kind")
"""The line of the table KINDS."""


class Block(Section):
    width: Count = 8
    depth: Count = 2


class Deep(Section):
    encoder: Block = Block()
    decoder: Block | None = None


class DeepSpecAsWritten(SpecAsWritten):
    deep: Deep = Deep()


class DeepSpec(DeepSpecAsWritten, Spec):
    evaluate: Evaluate


class DeepKind(LinearKind):
    written, resolved = DeepSpecAsWritten, DeepSpec

    def resolve(self, written):
        evaluate = Evaluate(**dict(written.evaluate) | {"reference": written.evaluate.reference or written.data.path})
        return DeepSpec(**dict(written) | {"evaluate": evaluate})


KIND = DeepKind()
