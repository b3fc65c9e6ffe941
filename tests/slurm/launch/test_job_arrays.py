"""The plan of a study's arrays: everything once, in order, and never more at once than was asked."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.resources import Resources, StageResources
from jobs.spec.stages import STAGES
from slurm.launch.job_arrays import REPORT, Array, Chain, Need, at_once, build_arrays, chains_of, graph, hours
from slurm.launch.profiles import Profile
from slurm.launch.sbatch_script import dependency, executor, script

OF_REPORT = Resources().of_report


class Asking:
    """As much of a spec as planning looks at."""

    def __init__(self, gpus: int):
        self.resources = Resources(train=StageResources(gpus_per_node=gpus, nodes=2), sample=StageResources(gpus_per_node=gpus))


runs = st.lists(st.tuples(st.sampled_from([STAGES, STAGES[1:], STAGES[2:]]), st.sampled_from([1, 2])), max_size=30).map(
    lambda drawn: {RunDir(Path(f"r{number}")): (Asking(gpus), stages) for number, (stages, gpus) in enumerate(drawn)})


@given(left=runs, longest=st.integers(1, 10), cap=st.sampled_from([None, 4, 7]))
def test_every_stage_that_is_left_is_planned_once_behind_the_one_before(left, longest, cap):
    arrays = build_arrays(chains_of(left, longest), OF_REPORT, cap)
    planned = [(run, array.stage) for array in arrays for run in array.runs]
    assert sorted(planned, key=str) == sorted(((run, stage) for run, (_, stages) in left.items() for stage in stages), key=str)
    assert [array.stage for array in arrays].count(REPORT) == bool(left)
    for place, array in enumerate(arrays):
        assert array.size <= longest
        if array.after_own is not None:
            assert array.after_own < place and arrays[array.after_own].runs == array.runs
            assert STAGES.index(arrays[array.after_own].stage) == STAGES.index(array.stage) - 1
        elif array.runs:
            assert all(left[run][1][0] == array.stage for run in array.runs)
    if left:  # the report waits for the last stage of every run
        ends = {run for place in arrays[-1].after_all for run in arrays[place].runs}
        assert ends == set(left)


@given(left=runs, cap=st.integers(4, 9))
def test_a_cap_holds_over_all_arrays(left, cap):
    arrays = build_arrays(chains_of(left, 1000), OF_REPORT, cap, queued=["7"])
    for place, array in enumerate(arrays[:-1]):
        resources = array.resources
        assert 1 <= array.at_once and array.at_once * resources.nodes * max(resources.gpus_per_node, 1) <= cap
        assert array.after_all == ((place - 1,) if place else ())  # one array at a time
        assert array.after_queued == (() if place else ("7",))


@given(left=runs, longest=st.integers(1, 10), cap=st.sampled_from([None, 4]), queued=st.sampled_from([(), ("7",)]))
def test_where_no_run_names_another_all_training_comes_first(left, longest, cap, queued):
    expected, newest, chains = [], {}, chains_of(left, longest)
    for stage in STAGES:
        for number, chain in enumerate(chains):
            if resources := dict(chain.stages).get(stage):
                place = len(expected)
                width = resources.nodes * max(resources.gpus_per_node, 1)
                expected.append(Array(stage, resources, chain.runs, newest.get(number), None,
                                      (place - 1,) if cap and place else (), queued if cap and not place else (),
                                      at_once=cap and cap // width))
                newest[number] = place
    report = [Array(REPORT, OF_REPORT, (), after_all=tuple(sorted(newest.values())), after_queued=queued)]
    assert build_arrays(chains, OF_REPORT, cap, queued) == (expected + report if expected else [])


named = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29), st.sampled_from(STAGES), st.sampled_from(STAGES)))


@given(left=runs, named=named, longest=st.integers(1, 10), cap=st.sampled_from([None, 4]))
def test_all_elements_of_an_array_wait_for_the_same_runs_which_come_before(left, named, longest, cap):
    needs = {}
    for first, second, stage, needed in named:
        earlier, later = (RunDir(Path(f"r{number}")) for number in sorted((first, second)))
        if first != second and later in left and stage in left[later][1] and needed in left[earlier][1]:
            needs[later, stage] = needs.get((later, stage), frozenset()) | {Need(earlier, needed)}
    arrays = build_arrays(chains_of(left, longest, needs), OF_REPORT, cap)
    assert sum(len(array.runs) for array in arrays) == sum(len(stages) for _, stages in left.values())
    for place, array in enumerate(arrays):
        waits = set()
        for index, element in array.after_named:
            assert index < place and (element is None) == (arrays[index].size == 1)
            waits.add(Need(arrays[index].runs[element or 0], arrays[index].stage))
        assert all(needs.get((run, array.stage), frozenset()) == waits for run in array.runs)


def test_runs_that_wait_for_each_other_are_refused():
    a, b = RunDir(Path("a")), RunDir(Path("b"))
    needs = {(a, "train"): frozenset({Need(b, "train")}), (b, "train"): frozenset({Need(a, "train")})}
    with pytest.raises(UserError, match="in a circle: (a -> b -> a|b -> a -> b)"):
        build_arrays(chains_of({run: (Asking(1), STAGES) for run in (a, b)}, 10, needs), OF_REPORT, None)


def test_a_cap_below_one_run_is_refused_with_what_it_needs():
    with pytest.raises(UserError, match="--max-parallel 3: one run needs 4 GPUs in resources.train"):
        build_arrays(chains_of({RunDir(Path("a")): (Asking(2), STAGES)}, 10), OF_REPORT, 3)


def test_dependencies_in_the_words_of_sbatch():
    two, resources = (RunDir(Path("a")), RunDir(Path("b"))), StageResources()
    ids = ["10", "11"]
    assert dependency(Array("train", resources, two), ids) is None
    assert dependency(Array("sample", resources, two, after_own=0), ids) == "aftercorr:10"
    assert dependency(Array("sample", resources, two[:1], after_own=1), ids) == "afterok:11"
    assert dependency(Array("sample", resources, two, after_own=0, after_all=(1,)), ids) == "aftercorr:10,afterany:11"
    assert dependency(Array("sample", resources, two, after_own_queued="7"), ids) == "aftercorr:7"
    assert dependency(Array("train", resources, two, after_named=((0, 3), (1, None))), ids) == "afterok:10_3:11"
    assert dependency(Array("sample", resources, two, after_own=0, after_named=((1, 0),), after_named_queued=("7_1",),
                            after_all=(1,)), ids) == "aftercorr:10,afterok:7_1:11_0,afterany:11"
    assert dependency(Array(REPORT, resources, (), after_all=(0, 1), after_queued=("5",)), ids) == "afterany:5:10:11"


def test_a_chain_behind_an_array_in_the_queue_waits_for_its_elements():
    behind = Chain((("sample", StageResources()), ("evaluate", StageResources())), (RunDir(Path("a")), RunDir(Path("b"))), "7")
    first, second, report = build_arrays([behind], OF_REPORT, None, queued=["7"])
    assert (first.after_own_queued, second.after_own_queued, second.after_own) == ("7", None, 0)
    assert "element i after i of 7 in the queue" in graph([first, second, report])


def test_cost_is_told_by_stage():
    arrays = build_arrays(chains_of({RunDir(Path(name)): (Asking(2), STAGES) for name in "ab"}, 10), OF_REPORT, None)
    # Two runs of 24 hours: training on 4 GPUs, sampling on 2, evaluation on a core, and half an hour for the report.
    assert hours(arrays) == ("at most 288 GPU-hours (train 192, sample 96) and 48 CPU-hours (evaluate 48, report 0) "
                             "without requeues")
    assert hours([]) == "nothing to submit"


@pytest.mark.parametrize("text, value", [("1-02:03:04", 1564), ("1", 1), ("0:01:30", 2), ("24:00:00", 1440)])
def test_wall_times_in_minutes(text, value):
    assert StageResources(time=text).minutes == value


@pytest.mark.parametrize("gpus, cpus, asked", [(2, None, 8), (2, 4, 4), (0, None, 1), (0, 4, 4)])
def test_a_profile_fills_in_cores_for_stages_with_gpus_that_are_silent(tmp_path, monkeypatch, gpus, cpus, asked):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")  # submitit wants to see an srun
    (tmp_path / "srun").touch(0o755)
    array = Array("train", StageResources(gpus_per_node=gpus, cpus_per_task=cpus), (RunDir(tmp_path),))
    text = script(executor(array, tmp_path, Profile(cpus_per_task=8), "name", tmp_path, None), 1)
    assert f"#SBATCH --cpus-per-task={asked}\n" in text and f"--cpus-per-task={asked} " in text.partition("\nsrun")[2]


def test_a_range_of_nodes_is_left_to_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "srun").touch(0o755)
    array = Array("train", StageResources(nodes="1-4", gpus_per_node=8, cpus_per_task=4), (RunDir(tmp_path),))
    text = script(executor(array, tmp_path, Profile(), "name", tmp_path, None), 1)
    assert [line for line in text.splitlines() if "--nodes" in line] == ["#SBATCH --nodes=1-4"]
    # With a number of tasks SLURM 22.05 grants fewer nodes: the script has none, and srun starts eight processes a node.
    assert "#SBATCH --ntasks-per-node" not in text and "#SBATCH --cpus-per-task=32" in text
    assert "--ntasks-per-node=8" in text and "--cpus-per-task=4 " in text
    assert "--wait=0" in text  # ranks that are not needed end before the others
    assert hours([array]).startswith("at most 768 GPU-hours")  # with the most nodes
    assert at_once("train", array.resources, 64) == 2
