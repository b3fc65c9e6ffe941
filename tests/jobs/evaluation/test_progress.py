"""What an evaluation says of its progress: what it prepares, and the time left only once it can be known."""

import jobs.evaluation.pieces as pieces
from jobs.run.progress import Progress


def test_every_silent_part_of_an_evaluation_has_words_and_the_time_left_waits_for_the_slow_steps(sampled, alone, monkeypatch):
    said, certain = [], []

    class Recorded(Progress):
        def prepare(self, doing):
            said.append(doing)
            super().prepare(doing)

        def update(self, done):
            certain.append((done, self.certain, self.doing))
            super().update(done)
    monkeypatch.setattr(pieces, "Progress", Recorded)
    run = sampled("evaluate.features=classifier")  # ten samples in batches of four; six examples of bits/dim, in two batches
    assert alone(run, "evaluate") == "done"
    parts = ["checking the samples", "training the classifier", "reading the reference", "features of the reference",
             "computing the metrics", "opening the held-out data", "loading the weights of step 12"]
    assert [part for part in dict.fromkeys(said) if part in parts] == parts
    assert [known for _, known, _ in certain] == [False] * 3 + [True] * (len(certain) - 3) and len(certain) > 40
    certain.clear()
    (run.path / "evaluation.json").unlink()
    assert alone(run, "evaluate") == "done"
    assert not certain  # every piece was saved: nothing to do, and no rate of a thousand steps a second
