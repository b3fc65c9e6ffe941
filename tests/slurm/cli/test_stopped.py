"""Ctrl-C in a command that has no words of its own for being stopped."""

import pytest
from click.testing import CliRunner

from slurm.cli.main import cli


@pytest.mark.parametrize("importer, words", [("folder.import_folder", ["folder", "pictures", "out.h5", "--image-size", "8"]),
                                             ("npz.import_npz", ["npz", "given.npz", "out.h5"])])
def test_ctrl_c_ends_a_command_with_130_and_one_word(monkeypatch, tmp_path, importer, words):
    def stopped(*given, **named):
        raise KeyboardInterrupt
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"jobs.data.importers.{importer}", stopped)
    done = CliRunner().invoke(cli, ["data", *words])
    assert done.exit_code == 130 and done.output.strip() == "stopped" and not (tmp_path / "out.h5").exists()
