"""The study of four families of models from its spec to its report, by the installed command, with tiny networks."""

import json

import pytest
from command_line import iddpm
from small_families import SAMPLES, STEPS, small_families

from jobs.spec.reading.file import load


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_study_of_four_families_from_its_spec_to_its_report(tmp_path):
    (tmp_path / "families.yaml").write_text(json.dumps(small_families()))
    iddpm("run", "families.yaml", "--only", "train", cwd=tmp_path)
    iddpm("run", "families.yaml", cwd=tmp_path)
    study = tmp_path / "runs" / "families-digits"
    found, page = json.loads((study / "report.json").read_text()), (study / "report.html").read_text()
    families = {family["name"]: family for family in found["families"]}
    assert {name: family["title"] for name, family in families.items()} == {
        "gan": "GAN", "vae": "VAE", "ddpm": "DDPM", "iddpm": "IDDPM"}
    assert all(run["state"] == "done" and run["samples"] == SAMPLES and run["remarks"] == [] for run in found["runs"])
    for name, family in families.items():
        numbers = {key: value for key, value in family.items() if key not in ("title", "name", "sampling", "label_accuracy")}
        assert all(value is not None and value >= 0 for value in numbers.values()), (name, family)
    evaluations = {run["name"]: sorted({point["evaluations"] for point in run["curve"]}) for run in found["runs"]}
    assert evaluations == {"gan": [1], "vae": [1]} | {name: [5, 10, steps] for name, steps in STEPS.items()}
    assert families["gan"]["parameters"] < families["gan"]["trained_parameters"]
    metrics = {run["name"]: {metric["key"] for metric in run["metrics"].values()} for run in found["runs"]}
    assert "bits_per_dim" in metrics["ddpm"] and "elbo_bits_per_dim" in metrics["vae"]
    assert not {"bits_per_dim", "elbo_bits_per_dim"} & metrics["gan"]
    assert found["question"].startswith("4 models learn the images of digits (8x8, 10 classes): GAN, VAE, DDPM, IDDPM.")
    assert any(sentence.startswith("Bits/dim: ") and "gan has no likelihood" in sentence for sentence in found["answer"])
    assert found["memorisation"].keys() == families.keys()
    assert all(0 <= one["nearer"] <= 1 and one["samples"] == SAMPLES for one in found["memorisation"].values())
    assert [model["title"] for model in found["models"]] == ["GAN", "VAE", "DDPM", "IDDPM"]
    for words in ("fid (pixels) over network evaluations", "fid (pixels) over the time of a sample", "Fidelity over diversity",
                  "fid (pixels) over training time", "What was not fair", "Memorisation", "Cost of each family", "–</td>",
                  "L_simple = ", "−ELBO = ", "No record says how many settings were tried", "Discriminator: "):
        assert words in page, words
    assert [line.split(" | ")[0] for line in (study / "report.md").read_text().splitlines() if line.startswith("| ")][2:6] == [
        "| gan", "| vae", "| ddpm", "| iddpm"]
    assert "4 runs" in iddpm("run", "families.yaml", cwd=tmp_path)  # all is done


def test_the_small_study_is_that_of_the_config(tmp_path):
    (tmp_path / "families.yaml").write_text(json.dumps(small_families()))
    assert [run.spec.kind for run in load(tmp_path / "families.yaml").runs] == ["gan", "vae", "diffusion", "diffusion"]
