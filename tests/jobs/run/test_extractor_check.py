"""The TorchScript file of evaluate.features is tried by `check`, and before anything is trained."""

import numpy as np
import pytest
import torch
from small_runs import SMALL_SPEC

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import DiffusionSpecAsWritten, resolve
from jobs.run.preflight import check_inputs, input_problems

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")]
MU, SIGMA = np.zeros(3), np.eye(3)


class Good(torch.nn.Module):
    def forward(self, x):
        return x.float().mean(dim=[2, 3])


class Half(torch.nn.Module):
    def forward(self, x):
        return x.float().mean(dim=[2, 3])[:1]


class Text(torch.nn.Module):
    def forward(self, x) -> str:
        return "features"


class Complex(torch.nn.Module):
    def forward(self, x):
        return torch.complex(x.float(), x.float()).flatten(1)


class OtherSize(torch.nn.Module):
    def forward(self, x):
        return x.float().flatten(1) @ torch.ones(7, 3)


class NeedsGpu(torch.nn.Module):
    def forward(self, x):
        return x.to("cuda").float().flatten(1)


class NoForward(torch.nn.Module):
    @torch.jit.export
    def features(self, x):
        return x


def problems(tmp_path, network, **evaluate):
    file = tmp_path / "features.pt"
    torch.jit.script(network).save(file)
    return problems_of(file, **evaluate)


def problems_of(file, **evaluate):
    written = SMALL_SPEC | {"evaluate": {"features": str(file), **evaluate}}
    return input_problems(resolve(DiffusionSpecAsWritten.model_validate(written)))


def test_a_file_that_gives_features_passes(tmp_path):
    np.savez(tmp_path / "reference.npz", mu=MU, sigma=SIGMA)
    assert problems(tmp_path, Good()) == problems(tmp_path, Good(), reference=str(tmp_path / "reference.npz")) == []
    assert problems(tmp_path, Good(), metrics=["fid", "kid", "precision_recall"]) == []
    assert problems(tmp_path, NeedsGpu()) == []  # a machine without a GPU cannot tell


@pytest.mark.parametrize("network, message", [
    (Half(), r"must give one tensor of features for 2 images, .* not {pool: tensor \[1, 3\]}"),
    (Text(), "must give one .* not str"),
    (Complex(), r"not {pool: complex tensor"), (OtherSize(), r"fails on uint8 images \[2, 3, 8, 8\]"),
    (NoForward(), "without a function forward")])
def test_a_file_of_another_form_is_refused_before_anything_is_written(tmp_path, network, message):
    (problem,) = problems(tmp_path, network)
    with pytest.raises(UserError, match=f"^{tmp_path / 'features.pt'}: .*{message}"):
        raise UserError(problem)
    assert "\n" not in problem


def test_metrics_and_statistics_that_the_features_do_not_fit_are_refused(tmp_path):
    (problem,) = problems(tmp_path, Good(), metrics=["sfid"])
    assert "sfid needs spatial features, but features.pt gives pooled features (3)" in problem
    np.savez(tmp_path / "reference.npz", mu=np.zeros(4), sigma=np.eye(4))
    (problem,) = problems(tmp_path, Good(), reference=str(tmp_path / "reference.npz"))
    assert "mu has 4 values, but features.pt gives 3" in problem


@pytest.mark.parametrize("content", ["weights", "text", "nothing"])
def test_a_file_that_is_no_torchscript_is_refused(tmp_path, content):
    file = tmp_path / "features.pt"
    torch.save({"a": torch.zeros(2)}, file) if content == "weights" else file.write_text("text" if content == "text" else "")
    (problem,) = problems_of(file)
    assert problem.startswith(f"{file}: not a TorchScript file (")
    written = SMALL_SPEC | {"evaluate": {"features": str(file)}}
    with pytest.raises(UserError, match="not a TorchScript file"):
        check_inputs([resolve(DiffusionSpecAsWritten.model_validate(written))])


def test_modules_in_the_current_folder_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("jobs.py", "torch.py", "diffusion.py"):
        (tmp_path / name).write_text("raise SystemExit('loaded')")
    assert problems(tmp_path, Good()) == []
