"""Nodes that failed of hardware are remembered, avoided for a day, and named."""

import json
import time
from pathlib import Path

import pytest

from jobs.errors import StageFailed
from jobs.run.failures import Failure, write_failure
from slurm.launch.profiles import Profile, Stages
from slurm.launch.sites import bad_nodes
from slurm.launch.sites.bad_nodes import avoiding, bad_nodes_notes, remember_node
from slurm.launch.sites.nodes import Node

HOUR = 3600.0


def fail(run: Path, node: str, kind: str = "hardware") -> None:
    run.mkdir(exist_ok=True)
    write_failure(run, Failure("train", kind, f"{node}: \x1b[31ma product comes out wrong", "", 0, node, 0, time.time()))
    remember_node(run)


def write(study: Path, **hours: float) -> None:
    """Write nodes.json: nodes, and how many hours ago they failed."""
    nodes = {node: {"time": time.time() - ago * HOUR, "reason": "broken"} for node, ago in hours.items()}
    (study / "nodes.json").write_text(json.dumps({"nodes": nodes}))


@pytest.fixture
def partition(monkeypatch):
    """partition(count): the profile's partition has so many nodes; None: sinfo does not answer."""
    def has(count):
        def nodes_of(site):
            if count is None:
                raise StageFailed("sinfo: no answer")
            return [Node(f"n{number}", "idle", 4, 1000, 1000, "") for number in range(count)]
        monkeypatch.setattr(bad_nodes, "nodes_of", nodes_of)
    return has


def test_only_failures_of_hardware_are_remembered(tmp_path):
    for kind in ("error", "node or network", "out of memory", "killed"):
        fail(tmp_path / "a", "n1", kind)
    assert not (tmp_path / "nodes.json").exists() and bad_nodes_notes(tmp_path) == []
    fail(tmp_path / "a", "n2")
    fail(tmp_path / "b", "n3,n4")  # a sum over ranks that came out wrong
    assert list(bad_nodes.bad_nodes(tmp_path)) == ["n2", "n3", "n4"]
    [note] = bad_nodes_notes(tmp_path)
    assert "n2 until " in note and "a product comes out wrong" in note and "\x1b" not in note


@pytest.mark.parametrize("count, avoided", [(3, "n3"), (19, "n3"), (20, "n2,n3"), (1000, "n1,n2,n3"), (None, "n3")])
def test_the_newest_are_avoided_and_at_most_a_tenth_of_the_partition(tmp_path, partition, count, avoided):
    partition(count)
    write(tmp_path, n1=3, n3=1, n2=2, n9=25)  # n9 has had its day
    profile, note = avoiding(Profile(), tmp_path)
    assert profile.exclude == avoided and f"jobs avoid {avoided.replace(',', ', ')}, " in note


def test_a_profiles_own_exclude_stays(tmp_path, partition):
    partition(50)
    write(tmp_path, n1=2, n2=1)
    stages = Stages.model_validate({"sample": {"exclude": "s1"}, "train": {"qos": "long"}})
    profile, _ = avoiding(Profile(exclude="x[1-3]", stages=stages), tmp_path)
    assert profile.of_stage("evaluate").exclude == profile.of_stage("train").exclude == "x[1-3],n1,n2"
    assert profile.of_stage("sample").exclude == "s1,n1,n2" and profile.of_stage("train").qos == "long"
    assert avoiding(Profile(nodelist="n1"), tmp_path) == (Profile(nodelist="n1"), "")  # the user's own choice


@pytest.mark.parametrize("content", [
    "", "[]", "{}", "null", "\0", '{"nodes": []}', '{"nodes": {"n1": 5}}', '{"nodes": {"n1": {"time": "x"}}}',
    '{"nodes": {"n1": {"time": 1e400, "reason": ""}}}', '{"nodes": {"n1": {"time": null}}}'])
def test_a_damaged_file_is_no_obstacle(tmp_path, content):
    (tmp_path / "nodes.json").write_text(content)
    assert avoiding(Profile(), tmp_path) == (Profile(), "")
    [note] = bad_nodes_notes(tmp_path)
    assert note.startswith(f"{tmp_path / 'nodes.json'}: ")
    fail(tmp_path / "a", "n2")
    assert list(bad_nodes.bad_nodes(tmp_path)) == ["n2"]


def test_what_is_no_name_of_a_node_reaches_no_script(tmp_path, partition):
    partition(100)
    nodes = {name: {"time": time.time() - 60, "reason": ""} for name in ("n1\n#SBATCH --x", "n1,n2", "$(x)", "", "-n", "n3.site")}
    (tmp_path / "nodes.json").write_text(json.dumps({"nodes": nodes}))
    assert avoiding(Profile(), tmp_path)[0].exclude == "n3.site"
    assert "\n" not in bad_nodes_notes(tmp_path)[0]


def test_the_next_jobs_avoid_a_broken_node_and_status_names_it(fake_slurm):
    act = fake_slurm.act("seed=1", "train", "broken n2")
    fake_slurm.submit("sweep.yaml")
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"seed=1": "failed", "seed=2": "done"}
    shown = fake_slurm.iddpm("status", "runs/study")
    assert "hardware" in shown and "new jobs avoid n2 until" in shown
    assert not any("exclude" in job["options"] for job in fake_slurm.jobs().values())
    act.unlink()
    before = set(fake_slurm.jobs())
    assert "jobs avoid n2, where a stage failed of hardware" in fake_slurm.iddpm("requeue", "runs/study")
    fake_slurm.until_empty()
    assert {job["options"].get("exclude") for id, job in fake_slurm.jobs().items() if id not in before} == {"n2"}
    assert fake_slurm.states() == {"seed=1": "done", "seed=2": "done"}


def test_many_failures_of_hardware_hold_nothing(fake_slurm):
    for seed in (1, 2, 3, 4):
        fake_slurm.act(f"seed={seed}", "train", "broken n2")
    fake_slurm.spec("four.yaml", sweep={"grid": {"train.seed": [1, 2, 3, 4]}})
    fake_slurm.submit("four.yaml")
    fake_slurm.until_empty()
    assert set(fake_slurm.states().values()) == {"failed"} and not Path("runs/study/held.json").exists()
