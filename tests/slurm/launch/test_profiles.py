"""Cluster profiles: where they are found, how they are read, and what is wrong with them. Scripts: test_sbatch_script.py."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import UserError
from slurm.launch.profiles import Profile, SiteOptions, load_profile


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes profile x.yaml of the current folder."""
    monkeypatch.chdir(tmp_path)

    def write_profile(content: str | bytes) -> None:
        file = tmp_path / "configs" / "clusters" / "x.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return write_profile


def complaints() -> list[str]:
    with pytest.raises(UserError) as caught:
        load_profile("x")
    return [line.removeprefix("configs/clusters/x.yaml") for line in str(caught.value).splitlines()]


def test_a_profile_that_does_not_exist_or_has_an_unknown_key_is_refused(fake_slurm):
    assert "no file" in fake_slurm.submit("spec.yaml", cluster="nowhere", status=2)
    Path("mine.yaml").write_text("memgb: 3\n")
    told = fake_slurm.submit("spec.yaml", cluster="mine.yaml", status=2)
    assert "mine.yaml:1: memgb: unknown key; did you mean `mem_gb`?" in told
    assert not Path("runs").exists()


@pytest.mark.parametrize("line", ["partition: \"main\\ntouch x\"", "partition: \"a' #\"", "qos: $(touch x)", "account: a b",
                                  "comment: \"a\\\\'\\\"\\ntouch x #\"", "comment: \"a\\\\\"",
                                  "sbatch: {\"requeue\\ntouch x #\": true}",
                                  "sbatch: {cpu-freq: \"a'\"}", "sbatch: {cpu-freq: \"a\\nb\"}", "srun: [\"--mpi='x\"]",
                                  "mail_user: \"a@b;touch x\\u2028\"", "environment: {\"A=1; touch x; B\": 1}"])
def test_profiles_cannot_smuggle_commands_into_the_script(fake_slurm, line):
    Path("configs/clusters/evil.yaml").write_text(line + "\n")
    assert line.split(":")[0] in fake_slurm.submit("spec.yaml", cluster="evil", status=2)
    assert not Path("x").exists() and not fake_slurm.jobs()


def test_numbers_are_taken_where_slurm_takes_them_and_as_they_are_written(write):
    write("account: 0123456\npartition: 1e3\nqos: 1_0\nenvironment: {OMP_NUM_THREADS: 4, PI: 3.140, EMPTY: ''}\n"
          "mem_per_cpu: 4000\nsbatch: {cpu-freq: 010, no-kill: true}\nnice: 100\nsetup: [module load cuda]\nsrun: [--mpi=pmix]\n")
    profile = load_profile("x")
    assert (profile.account, profile.partition, profile.qos, profile.mem_per_cpu) == ("0123456", "1e3", "1_0", "4000")
    assert profile.environment == {"OMP_NUM_THREADS": "4", "PI": "3.140", "EMPTY": ""}
    assert profile.sbatch == {"cpu-freq": "010", "no-kill": True} and profile.nice == 100


def test_anchors_and_merge_keys_work(write):
    write("partition: &p gpu\nstages: {train: &t {partition: *p, qos: long}, sample: {<<: *t, qos: null}}\n")
    assert load_profile("x").of_stage("sample") == SiteOptions(partition="gpu", qos=None)


@pytest.mark.parametrize("text, expected", [
    ("partition: a\nqos: b\npartition: c\n", ":3: partition: given twice; first at configs/clusters/x.yaml:1"),
    ("partition: gpu\nenvironment: {DEBUG: true}\n", ':2: environment.DEBUG: must be text; put it in quotes: "true" (got true)'),
    ("environment: {DEBUG: null}\n", ':1: environment.DEBUG: must be text; put it in quotes: "null" (got null)'),
    ("environment: {1A: b}\n",
     ':1: environment.1A: must be the name of a variable: letters, digits and _, no digit first (got "1A")'),
    ("environment: [A]\n", ":1: environment: must be a mapping of names to values (got [A])"),
    ("account: 2001-13-45\n", ':1: account: looks like a date; put text in quotes: "2001-13-45"'),
    ("partition: [gpu, long]\n", ":1: partition: must be text or null (got [gpu, long])"),
    ("partition: true\n", ":1: partition: must be text or null (got true)"),
    ("setup: module load cuda\n", ':1: setup: must be a list, such as [1, 2] (got "module load cuda")'),
    ("mem_gb: 4\n\nmem_per_cpu: 4G\n", ":3: mem_per_cpu: give mem_gb or mem_per_cpu, not both"),
    ("mem_per_cpu: 4 GB\n", ":1: mem_per_cpu: must be a number of MB, or a number with K, M, G or T behind it, such as 4G "
                            '(got "4 GB")'),
    ("stages: {trian: {}}\n", ":1: stages.trian: unknown key; did you mean `train`?"),
    ("stages:\n  train: {partiton: a}\n", ":2: stages.train.partiton: unknown key; did you mean `partition`?"),
    ("stages:\n  train: {mem_gb: 1, mem_per_cpu: 1}\n", ":2: stages.train.mem_per_cpu: give mem_gb or mem_per_cpu, not both"),
    ("stages: [train]\n", ":1: stages: must be a mapping with keys among train, sample, evaluate, report (got [train])"),
    ("sbatch: {time: 5}\n", ":1: sbatch.time: is the spec's: write resources.STAGE.time"),
    ("sbatch: {output: x}\n", ":1: sbatch.output: is set by iddpm, which depends on it"),
    ("sbatch: {mail-user: x}\n", ":1: sbatch.mail-user: has a key of its own: write mail_user"),
    ("sbatch: {a: false}\n", ':1: sbatch.a: must be the long name of an option of sbatch, such as cpu-freq (got a)'),
    ("sbatch: {cpu-freq: false}\n",
     ":1: sbatch.cpu-freq: must be text, a number, or true for an option without a value (got false)"),
    ("srun: [--mpi=pmix, --output=x]\n", ":1: srun[1]: --output=x: is set by iddpm, which depends on it"),
    ("srun: [-n4]\n", ":1: srun[0]: -n4: write the long form of the option, such as --mpi=pmix"),
    ("exclusive: maybe\n", ':1: exclusive: must be true, false, user, mcs or topo (got maybe)'),
    ("exclusive: maybe not\n", ':1: exclusive: must be true, false, user, mcs or topo (got "maybe not")'),
    ("gres: gpu:a100\ngpu_request: gpus_per_node\n", ":2: gpu_request: gres names GPUs, which asks for them with --gres; leave "
                                                     "gpu_request out"),
    ("nice: 1e300\n", ":1: nice: must be a whole number or null (got 1.0e+300)"),
    ("cpus_per_task: " + "9" * 300 + "\n", f":1: {'9' * 40}... cannot be used as int"),
    ("mem_gb: 1e999\n", ":1: 1e999 cannot be used as float"),
    ("- gpu\n", ": must be a mapping, with keys such as partition:"),
    ("", ": must be a mapping, with keys such as partition:"),
    ("a0: &a0 [1]\n" + "".join(f"a{level}: &a{level} [{f'*a{level - 1},' * 9}]\n" for level in range(1, 9)),
     ":7: more than 200,000 values, each alias (*) counted in full"),
    (b"partition: gpu\xff\n", ":1: not UTF-8 text"),
    ("partition: gpu\n".encode("utf-16"), ":1: not UTF-8 text"),
    ("partition: \"a\\0\"\n", ':1: partition: control characters (newline, tab, ...) are not allowed (got "a\\U00000000")'),
])
def test_mistakes_come_with_file_and_line(write, text, expected):
    write(text)
    assert complaints()[0] == expected


def test_a_folder_a_pipe_and_an_endless_name_are_told(write, tmp_path):
    write("partition: gpu\n")
    folder = tmp_path / "configs" / "clusters"
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    for name, expected in (("folder", "configs/clusters/folder.yaml: not a file but a folder"),
                           ("pipe", "configs/clusters/pipe.yaml: not a file"), ("a" * 400, "--cluster aaa")):
        with pytest.raises(UserError) as caught:
            load_profile(name)
        assert str(caught.value).startswith(expected)


def test_a_user_without_a_home_has_the_profiles_of_the_folder(write, monkeypatch):
    write("partition: gpu\n")
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home")))
    assert load_profile("x").partition == "gpu"


def test_the_options_of_a_stage_replace_those_of_the_profile(write):
    write("partition: gpu\nmem_gb: 4\ngres: gpu:a100\nsbatch: {cpu-freq: high, no-kill: true}\nsrun: [--mpi=pmix]\n"
          "stages:\n  train: {partition: long, mem_per_cpu: 2G, sbatch: {cpu-freq: low}}\n"
          "  report: {partition: null, gpu_request: gpus_per_node, srun: []}\n")
    profile = load_profile("x")
    train, sample, report = (profile.of_stage(stage) for stage in ("train", "sample", "report"))
    assert (train.partition, train.mem_gb, train.mem_per_cpu, train.srun) == ("long", None, "2G", ["--mpi=pmix"])
    assert train.sbatch == {"cpu-freq": "low", "no-kill": True}
    assert (sample.partition, sample.mem_gb, sample.gres) == ("gpu", 4, "gpu:a100")
    assert (report.partition, report.gres, report.gpu_request, report.srun) == (None, None, "gpus_per_node", [])


PIECES = ["partition: a\n", "stages: {train: {qos: b}}\n", "sbatch: {a-b: 1}\n", "srun: [--a]\n", "environment: {A: 1}\n",
          "mem_gb: ", "{", "}", "[", "]", ": ", "- ", "\n", "&a ", "*a", "<<: ", "1", "true", "null", "'", '"', "\\", "\0", "é",
          "2001-01-01"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=100),
                         st.lists(st.sampled_from(PIECES), max_size=10).map(lambda pieces: "".join(pieces).encode())))
def test_any_bytes_give_a_profile_or_a_message(write, content):
    write(content)
    try:
        assert isinstance(load_profile("x"), Profile)
    except UserError as error:
        assert "x.yaml" in str(error)
