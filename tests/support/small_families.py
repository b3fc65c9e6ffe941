"""configs/families-digits.yaml with networks of a few thousand parameters, a few steps of training and short chains."""

import yaml
from paths import ROOT

CONFIG = ROOT / "configs" / "families-digits.yaml"
SAMPLES = 20  # fewer have no interval of FID
STEPS = {"ddpm": 30, "iddpm": 40}
"""T of the diffusion models: the chains of the config, with 25 and 100 steps, become chains of 5 and 10."""
CHAINS = {"25": "5", "100": "10", "": ""}


def small_families() -> dict:
    spec = yaml.safe_load(CONFIG.read_text())
    spec["resources"] = {stage: {"tasks_per_node": 1, "cpus_per_task": 1, "time": "0:20:00"}
                         for stage in ("train", "sample", "evaluate")}
    for point in spec["sweep"]["list"]:
        _shrink(point)
    return spec


def _shrink(point: dict) -> None:
    point["model"] = point["model"] | {"num_channels": 8, "channel_mult": [1, 2]}
    point["train"] = point["train"] | {"iterations": 6, "batch_size": 8, "save_interval": 3, "log_interval": 2,
                                       "lr": float(point["train"]["lr"])}  # yaml reads 1e-3 as a text
    point["train"].pop("warmup", None)
    point["sample"] = point["sample"] | {"num_samples": SAMPLES, "batch_size": 10, "at": [3, "last"]}
    point["evaluate"] = point["evaluate"] | {"features": "pixels", "metrics": ["fid", "precision_recall"], "batch_size": 10}
    if "kl_warmup" in point.get("vae", {}):
        point["vae"] = point["vae"] | {"kl_warmup": 2}
    if "nll_examples" in point["evaluate"]:
        point["evaluate"]["nll_examples"] = 4
    if point["kind"] == "diffusion":
        point["diffusion"] = point["diffusion"] | {"diffusion_steps": STEPS[point["name"]]}
        point["sample"]["timestep_respacing"] = CHAINS[point["sample"]["timestep_respacing"]]
        point["evaluate"]["samplings"] = [
            sampling | {"timestep_respacing": [CHAINS[chain] for chain in sampling["timestep_respacing"]]}
            for sampling in point["evaluate"]["samplings"]]
