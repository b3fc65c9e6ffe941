"""The copy of the code that queued jobs run."""

import os
import subprocess
import sys

from slurm.launch.snapshot import snapshot


def test_a_report_can_be_written_by_the_copied_code(study):
    code = snapshot(study)
    assert not list(code.rglob("__pycache__"))
    script = ("import sys\nfrom pathlib import Path\nfrom jobs.report import write\n"
              "assert Path(write.__file__).is_relative_to(Path.cwd()), write.__file__\n"
              "write.report(Path(sys.argv[1]))")
    subprocess.run([sys.executable, "-c", script, study], cwd=code, env=os.environ | {"PYTHONPATH": str(code)}, check=True)
    assert (study / "report.html").is_file()
