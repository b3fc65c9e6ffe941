import resource
import subprocess
import sys

import pytest
from paths import ROOT

MIB, COUNT = 64, 10
ALLOCATING = f"""
import resource, sys
from pathlib import Path
import torch
from jobs.parallel import group as distributed

def faults_of(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.empty({MIB << 18}).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "default":
    distributed.keep_freed_memory = lambda: None
with distributed.process_group(Path(sys.argv[2]), threads=1):
    faults_of(20)  # the heap settles
    print(faults_of({COUNT}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("malloc, share", [("default", 1.0), ("kept", 0.0)])
def test_a_stage_on_a_cpu_takes_its_memory_from_the_system_once(tmp_path, malloc, share):
    done = subprocess.run([sys.executable, "-c", ALLOCATING, malloc, tmp_path / "meeting"], capture_output=True, text=True,
                          cwd=ROOT, check=True)
    pages = COUNT * (MIB << 20) // resource.getpagesize()
    assert int(done.stdout) / pages == pytest.approx(share, abs=0.05)
