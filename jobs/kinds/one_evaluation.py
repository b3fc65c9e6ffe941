"""What kinds share whose samples are no chain of steps."""

from typing import Any

from jobs.spec.kinds import Changes, Guide
from jobs.spec.sections import Contradiction, Spec


class OneEvaluation:
    """A kind whose samples, if it draws any, are one evaluation of the network each: no chain to vary, and nothing guides."""

    def samplings(self, spec: Any) -> list[Changes]:
        return []

    def steps(self, spec: Any) -> int:
        return 1

    def evaluations(self, spec: Any) -> int:
        return 1

    def guide(self, spec: Any) -> Guide | None:
        return None

    def guide_problems(self, spec: Any, other: Spec) -> list[Contradiction]:
        return []

    def records_steps(self, spec: Any) -> bool:
        return False

    def sampling_facts(self, spec: Any) -> dict[str, Any]:
        return {"sampling_steps": 1}

    def sampling_attributes(self, spec: Any) -> dict[str, Any]:
        return {}
