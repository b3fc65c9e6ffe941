"""The stages of a run. Without pydantic, so that `iddpm --help` can list them at once."""

STAGES = ("train", "sample", "evaluate")
"""In the order in which a run does them."""
