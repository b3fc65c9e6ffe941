"""Cluster profiles: where they are found, what they put into a script, and what they cannot."""

from pathlib import Path

import pytest


def test_a_profile_fills_the_script(fake_slurm):
    options = {"partition": "main", "account": "us", "qos": "long", "constraint": "a100&nvlink"}
    fake_slurm.profile("mine", **options, gpu_request="gres", mem_gb=2, environment={"GREETING": "it's me"},
                       setup=["module load cuda"], python="apptainer exec image.sif python")
    text = fake_slurm.submit("spec.yaml", "resources.train.gpus_per_node=1", "--dry-run", cluster="mine")
    for line in (*(f"#SBATCH --{option}={value}" for option, value in options.items()), "#SBATCH --gres=gpu:1",
                 "#SBATCH --mem=2048MB", "module load cuda", "export GREETING='it'\"'\"'s me'"):
        assert line in text.replace("constraint='a100&nvlink'", "constraint=a100&nvlink").splitlines()
    assert "apptainer exec image.sif python -u -m submitit.core._submit" in text


def test_a_profile_that_does_not_exist_or_has_an_unknown_key_is_refused(fake_slurm):
    assert "no file" in fake_slurm.submit("spec.yaml", cluster="nowhere", status=2)
    Path("mine.yaml").write_text("memgb: 3\n")
    assert "did you mean `mem_gb`?" in fake_slurm.submit("spec.yaml", cluster="mine.yaml", status=2)
    assert not Path("runs").exists()


@pytest.mark.parametrize("line", ["partition: \"main\\ntouch x\"", "partition: \"a' #\"", "qos: $(touch x)", "account: a b"])
def test_profiles_cannot_smuggle_commands_into_the_script(fake_slurm, line):
    Path("configs/clusters/evil.yaml").write_text(line + "\n")
    assert line.split(":")[0] in fake_slurm.submit("spec.yaml", cluster="evil", status=2)
    assert not Path("x").exists()
