"""Samples that are there already: a damaged chunk is computed again, and samples of other weights are refused."""

import pytest
from noisy_runs import chunk_states, same, trained

from jobs.errors import UserError
from jobs.sampling.chunks import chunk_file


def test_a_damaged_chunk_is_computed_again_and_a_finished_run_is_left_alone(make_run, alone, capsys):
    run, whole = trained(make_run(folder="a")), trained(make_run(folder="b"))
    for either in (run, whole):
        assert alone(either, "sample") == "done"
    before = chunk_states(run)
    run.samples_h5.unlink()
    file = chunk_file(run.samples, 1)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    damaged = chunk_states(run)
    capsys.readouterr()
    assert alone(run, "sample") == "done"
    assert f"{file}: cannot be read (damaged" in capsys.readouterr().out
    assert same(run, whole)
    after = chunk_states(run)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != damaged[name]] == ["chunk-00001.h5"]

    inode = run.samples_h5.stat().st_ino
    assert alone(run, "sample") == "done"
    assert (run.samples_h5.stat().st_ino, chunk_states(run)) == (inode, after)


def test_samples_of_other_weights_are_refused(make_run, alone):
    run = trained(make_run())
    assert alone(run, "sample") == "done"
    before = chunk_states(run), run.samples_h5.stat().st_ino
    trained(run, averaged=5)
    with pytest.raises(UserError, match="samples.h5: made with other weights or settings: weights_sha256 .*Remove"):
        alone(run, "sample")
    assert (chunk_states(run), run.samples_h5.stat().st_ino) == before
    run.samples_h5.unlink()
    with pytest.raises(UserError, match="chunk-00000.h5: made with other weights or settings: weights_sha256 .*Remove"):
        alone(run, "sample")
    assert chunk_states(run) == before[0] and not run.samples_h5.exists()
