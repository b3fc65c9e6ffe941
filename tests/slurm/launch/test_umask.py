"""Whatever the umask, nobody else can write what a study consists of: its code and pickles are programs that we run."""

import json

import pytest
from command_line import iddpm
from small_runs import SMALL_SPEC


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_a_run_writes_is_not_writable_for_others(tmp_path, umask):
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL_SPEC))
    iddpm("run", "small.yaml", "train.iterations=2", "evaluate.metrics=[]", cwd=tmp_path, umask=umask)
    made = [path for path in (tmp_path / "runs").rglob("*") if not path.is_symlink()]
    assert any(path.suffix == ".pkl" for path in made) and any(path.name == "report.html" for path in made)
    assert not [path for path in made if path.stat().st_mode & 0o022]
    readable = all(path.stat().st_mode & 0o044 == 0o044 for path in made)
    assert readable == (umask != 0o077)
