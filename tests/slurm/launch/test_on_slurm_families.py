"""The study of four families of models on a real SLURM on this machine, with tiny networks."""

import json

import pytest
from small_families import small_families

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(400)]


def test_four_families_run_as_jobs_and_the_last_job_writes_their_report(cluster, tmp_path):
    (tmp_path / "families.yaml").write_text(json.dumps(small_families()))
    submitted = cluster.iddpm("submit", "families.yaml")
    assert "4 runs" in submitted and "report" in submitted
    cluster.until_empty()
    found = {status["run"]: status["state"] for status in cluster.status("runs/families-digits")}
    assert found == dict.fromkeys(("gan", "vae", "ddpm", "iddpm"), "done")
    reported = json.loads((tmp_path / "runs" / "families-digits" / "report.json").read_text())
    assert [family["fid"] is not None for family in reported["families"]] == [True] * 4
