"""The kind `noisy_classifier`, as a login node knows it: the classifier that guides a diffusion model (Dhariwal & Nichol 2021).

Its runs have the stages train and evaluate.
"""

from collections.abc import Mapping
from typing import Any

from jobs.kinds.diffusion.description.algorithms import NETWORK_COST
from jobs.kinds.diffusion.description.objective import FORWARD
from jobs.kinds.diffusion.layer_costs import half_unet_layers
from jobs.kinds.diffusion.told_by_shapes import Shapes, told_of_half_unet, untold_by_weights
from jobs.kinds.noisy_classifier.quarters import quarters
from jobs.kinds.noisy_classifier.sections import (
    ClassifierSpec,
    ClassifierSpecAsWritten,
    classifier_contradictions,
    resolve,
)
from jobs.kinds.one_evaluation import OneEvaluation
from jobs.spec.kinds import MODEL, Description, HeldOut, OwnNumber
from jobs.spec.layer_cost import LayerCost
from jobs.spec.metrics import Number
from jobs.spec.sections import Contradiction

ACCURACY, TOP5, CROSS_ENTROPY = "accuracy", "accuracy_top5", "cross_entropy"
"""Keys in evaluation.json."""
DESCRIPTION = Description(
    title="Classifier of noisy images",
    objective=f"L = E_{{x₀, y, ε, t}} [−log p_φ(y | x_t, t)], {FORWARD}",
    source="Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4.1",
    training=("Draw B images x₀ with their classes y from the data.", "Draw t uniformly from 1 … T, and ε ~ N(0, I).",
              f"{FORWARD}.", "Evaluate p_φ(y | x_t, t) once; take a step of AdamW down the gradient of the cross entropy.",
              "Average the weights over the steps (EMA)."),
    sampling=(),
    training_cost=f"O(iterations · B · F) for batches of B images: 3 F an image, whatever T is; {NETWORK_COST}.",
    sampling_cost="")
BASIS = "of noisy images, at a uniform timestep"


class ClassifierKind(OneEvaluation):
    model = "jobs.kinds.noisy_classifier.model"
    written = ClassifierSpecAsWritten
    resolved = ClassifierSpec
    stages = ("train", "evaluate")
    number_labels: Mapping[str, Number] = {
        ACCURACY: Number("accuracy", higher_is_better=True, basis=BASIS),
        TOP5: Number("accuracy of the top 5", higher_is_better=True, basis=BASIS),
        CROSS_ENTROPY: Number("cross entropy", basis=f"in nats, {BASIS}")}

    def resolve(self, written: ClassifierSpecAsWritten) -> ClassifierSpec:
        return resolve(written)

    def contradictions(self, spec: ClassifierSpec) -> list[Contradiction]:
        return classifier_contradictions(spec)

    def identity(self, spec: ClassifierSpec) -> dict[str, dict]:
        return {"model": spec.model.identity(exclude={"dropout"}), "diffusion": spec.diffusion.identity()}

    def layers(self, spec: ClassifierSpec) -> dict[str, list[LayerCost]]:
        return {MODEL: half_unet_layers(spec.model, spec.data, spec.data.num_classes or 0, spec.model.pool)}

    def numbers(self, spec: ClassifierSpec) -> list[OwnNumber]:
        """Accuracy, and with it the cross entropy: each example once in every quarter of the timesteps."""
        beside = ([TOP5] if (spec.data.num_classes or 0) > 5 else []) + [CROSS_ENTROPY]
        return [OwnNumber(self.number_labels[ACCURACY].label, ACCURACY, spec.train.iterations, (), spec.evaluate.examples,
                          spec.evaluate.batch_size, len(quarters(spec.diffusion.diffusion_steps)),
                          of=spec.evaluate.data or spec.data.path, beside=tuple(beside))]

    def held_out(self, spec: ClassifierSpec) -> list[HeldOut]:
        return [] if spec.evaluate.data is None else [HeldOut("evaluate.data", spec.evaluate.data, "evaluate.examples", 1)]

    def told_by_weights(self, shapes: Shapes, written: Mapping[str, Any]) -> dict[str, Any]:
        return told_of_half_unet(shapes, written)

    def untold_by_weights(self, written: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, str]:
        return untold_by_weights(written, told, decoder=False)

    def headline_settings(self, spec: ClassifierSpec) -> dict[str, Any]:
        return {"noise_schedule": spec.diffusion.noise_schedule, "diffusion_steps": spec.diffusion.diffusion_steps,
                "num_channels": spec.model.num_channels, "pool": spec.model.pool}

    def description(self, spec: ClassifierSpec) -> Description:
        return DESCRIPTION


KIND = ClassifierKind()
