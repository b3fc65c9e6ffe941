import pytest

from jobs.spec.averages import average_names, average_problems, combination, described, rate_at, snapshot_steps


@pytest.mark.parametrize("iterations, snapshots, expected", [
    (1000, 4, [250, 500, 750, 1000]), (10, 4, [3, 5, 8, 10]), (3, 16, [1, 2, 3]), (7, 1, [7]), (1, 64, [1])])
def test_snapshots_are_even_and_end_with_training(iterations, snapshots, expected):
    assert snapshot_steps(iterations, snapshots) == expected


def test_names_say_what_an_average_is():
    assert average_names([0.9999], [0.05, 0.10]) == ["0.9999", "sigma_rel-0.05", "sigma_rel-0.1"]
    assert [rate_at("0.9999", step) for step in (0, 10)] == [0.9999, 0.9999]
    assert rate_at("sigma_rel-0.1", 0) == 0 and 0.9 < rate_at("sigma_rel-0.1", 99) < rate_at("sigma_rel-0.05", 999) < 1
    assert described("0.9") == {"ema_rate": "0.9"} and described(None) == {"ema_rate": ""}
    assert described("sigma_rel-0.1") == {"ema_sigma_rel": "0.1"}


def test_coefficients_do_not_depend_on_what_the_machine_has():
    """To the bit: they are part of the samples' identity. Plain IEEE arithmetic gives these numbers on every processor."""
    found = combination((250, 500, 750, 1000), (0.05, 0.1), 0.07)
    assert sum(found) == pytest.approx(1, abs=1e-12)
    assert [share.hex() for share in found] == [
        "0x1.414b1117d3bc4p-26", "-0x1.ed468e1feeeb1p-22", "0x1.5e416189c6786p-14", "-0x1.29d21ebe02532p-11",
        "0x1.5e267a7994d5bp-7", "-0x1.67cd81d67ea55p-5", "0x1.bcff2b1c0e59ap-2", "0x1.32c439ebac850p-1"]


@pytest.mark.parametrize("snapshots, sigma_rel, given", [
    (16, 0.02, "0.03 to 0.23"), (16, 0.28, "0.03 to 0.23"), (8, 0.03, "0.04 to 0.17"), (4, 0.15, "0.045 to 0.12"),
    (1, 0.15, "0.045 to 0.06 or 0.085 to 0.11")])
def test_a_length_that_is_too_far_from_the_tracked_ones_is_refused_with_those_that_are_not(snapshots, sigma_rel, given):
    (problem,) = average_problems(100_000, [0.05, 0.1], snapshots, sigma_rel, [100_000])
    count = f"{snapshots} snapshot{'' if snapshots == 1 else 's'}"
    assert problem == (f"{sigma_rel}: {count} of train.ema_sigma_rel [0.05, 0.1], up to step 100000, give {given}; more "
                       "train.ema_snapshots give more")


def test_every_step_is_looked_at():
    assert average_problems(1000, [0.05, 0.1], 16, 0.07, [1000, 500]) == []
    (problem,) = average_problems(1000, [0.05, 0.1], 16, 0.07, [1000, 500, 10])
    assert problem.startswith("0.07: 1 snapshot of train.ema_sigma_rel [0.05, 0.1], up to step 10, give ")
    assert average_problems(1000, [0.05, 0.1], 16, 0.1, [1000, 10]) == []  # tracked: the checkpoint itself has it
    assert average_problems(1000, [], 16, 0.1, [1000]) == [
        "0.1: needs averages that training tracks; give train.ema_sigma_rel, such as [0.05, 0.1]"]
