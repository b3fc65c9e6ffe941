"""What spec and profile put into the script for sbatch."""

import os
import shlex

import pytest

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.resources import StageResources
from slurm.launch.job_arrays import Array
from slurm.launch.profiles import Profile, Stages
from slurm.launch.sbatch_script import executor, script


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Function of a profile, resources and a stage: the options of the script by name."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")  # submitit wants to see an srun
    (tmp_path / "srun").touch(0o755)

    def of(profile, stage="train", **resources):
        array = Array(stage, StageResources(**resources), (RunDir(tmp_path),))
        text = script(executor(array, tmp_path, profile, "name", tmp_path, None), 1)
        lines = [shlex.split(line)[1][2:] for line in text.splitlines() if line.startswith("#SBATCH ")]
        return {key: value for key, _, value in (line.partition("=") for line in lines)} | {"script": text}
    return of


def test_a_profile_fills_the_script(fake_slurm):
    settings = {"partition": "main", "account": "us", "qos": "long", "constraint": "a100&nvlink"}
    fake_slurm.profile("mine", **settings, gpu_request="gres", mem_gb=2, environment={"GREETING": "it's me"},
                       setup=["module load cuda"], python="apptainer exec image.sif python")
    text = fake_slurm.submit("spec.yaml", "resources.train.gpus_per_node=1", "--dry-run", cluster="mine")
    for line in (*(f"#SBATCH --{option}={value}" for option, value in settings.items()), "#SBATCH --gres=gpu:1",
                 "#SBATCH --mem=2048MB", "module load cuda", "export GREETING='it'\"'\"'s me'"):
        assert line in text.replace("constraint='a100&nvlink'", "constraint=a100&nvlink").splitlines()
    assert "apptainer exec image.sif python -u -m submitit.core._submit" in text


def test_every_named_option_reaches_sbatch(options):
    profile = Profile(reservation="r", exclude="n1", nodelist="n[2-3]", exclusive=True, mail_type="END,FAIL",
                      mail_user="me@example.org", comment="mine, all #mine", wckey="w", licenses="a@b:2", nice=100, tmp="10G",
                      sbatch={"cpu-freq": "high", "no-kill": True}, srun=["--mpi=pmix"])
    found = options(profile)
    assert found.items() >= {
        "reservation": "r", "exclude": "n1", "nodelist": "n[2-3]", "exclusive": "", "mail-type": "END,FAIL",
        "mail-user": "me@example.org", "comment": "mine, all #mine", "wckey": "w", "licenses": "a@b:2", "nice": "100",
        "tmp": "10G", "cpu-freq": "high", "no-kill": ""}.items()
    assert "--mpi=pmix" in next(line for line in found["script"].splitlines() if line.startswith("srun "))
    assert options(Profile(exclusive="user"))["exclusive"] == "user"
    assert not {"exclusive", "wckey", "nice", "mem"} & options(Profile()).keys()


@pytest.mark.parametrize("settings, gpus, gres, per_node", [
    ({}, 0, None, None), ({}, 2, None, "2"),
    ({"gpu_request": "gres"}, 2, "gpu:2", None), ({"gpu_request": "gres"}, 0, None, None),
    ({"gres": "gpu:a100"}, 2, "gpu:a100:2", None), ({"gres": "gpu:a100:2"}, 2, "gpu:a100:2", None),
    ({"gres": "gpu:a100:1"}, 0, None, None), ({"gres": "gpu:a100,nvme:1"}, 4, "gpu:a100:4,nvme:1", None),
    ({"gres": "gpu:a100,nvme:1"}, 0, "nvme:1", None), ({"gres": "nvme"}, 2, "nvme", "2"), ({"gres": "gpu"}, 1, "gpu:1", None),
    ({"gres": "nvme", "gpu_request": "gres"}, 2, "gpu:2,nvme", None)])
def test_the_site_says_the_type_of_gpu_and_the_spec_the_number(options, settings, gpus, gres, per_node):
    found = options(Profile(**settings), gpus_per_node=gpus)
    assert (found.get("gres"), found.get("gpus-per-node")) == (gres, per_node)


def test_a_number_of_gpus_that_contradicts_the_spec_is_refused(options):
    with pytest.raises(UserError, match=r"gres: gpu:a100:1 asks for 1 GPUs, but the spec for 2; .*resources.train.gpus_per_node"):
        options(Profile(gres="gpu:a100:1"), gpus_per_node=2)


@pytest.mark.parametrize("profile, asked, mem, per_cpu", [
    (Profile(), None, None, None), (Profile(mem_gb=2), None, "2048MB", None), (Profile(mem_gb=2), 1.5, "1536MB", None),
    (Profile(mem_gb=0), None, "0", None), (Profile(mem_gb=2), 0, "0", None), (Profile(), 0.0001, "1MB", None),
    (Profile(mem_gb=0.0001), None, "1MB", None), (Profile(mem_per_cpu="4G"), None, None, "4G"),
    (Profile(mem_per_cpu="4G"), 2, "2048MB", None),
    (Profile(mem_gb=2, stages=Stages(train={"mem_per_cpu": "1G"})), None, None, "1G")])
def test_memory_is_the_specs_then_the_stages_then_the_profiles(options, profile, asked, mem, per_cpu):
    found = options(profile, mem_gb=asked)
    assert (found.get("mem"), found.get("mem-per-cpu")) == (mem, per_cpu)


def test_each_stage_and_the_report_have_their_options(options):
    stages = Stages(train={"partition": "long"}, report={"partition": "cpu", "qos": "q"})
    profile = Profile(partition="gpu", gres="gpu:a100", stages=stages)
    found = {stage: options(profile, stage) for stage in ("train", "sample", "report")}
    assert {stage: each["partition"] for stage, each in found.items()} == {"train": "long", "sample": "gpu", "report": "cpu"}
    assert found["report"]["qos"] == "q" and "qos" not in found["train"]
