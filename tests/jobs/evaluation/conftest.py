import pytest
from evaluated_runs import noisy_network

from jobs.run.checkpoints import save_checkpoint
from jobs.spec.kinds import MODEL
from jobs.spec.samplings import samplings


@pytest.fixture
def sampled(make_run, alone):
    """sampled("sample.num_samples=5", ...) -> a run with weights of noise and its samples."""
    def make(*overrides, seed=0, folder="runs"):
        run = make_run(*overrides, folder=folder)
        for step in sorted({sampling.step for sampling in samplings(run.spec)}):
            weights = noisy_network(run.spec, seed + (step != run.spec.train.iterations)).state_dict()
            save_checkpoint(run, step, {MODEL: {None: weights, "0.9": weights}}, None)
        assert alone(run, "sample") == "done"
        return run
    return make
