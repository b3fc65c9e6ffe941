"""Messages about values and keys that do not fit the schema: each has file, line and key."""

import pytest
from spec_files import SMALLEST, complaints_about

from jobs.spec.reading.yaml_nodes import MAX_COMPLAINTS

TRAIN_KEYS = ("iterations, init_from, batch_size, microbatch, lr, warmup, lr_anneal, weight_decay, grad_clip, ema_rate, "
              "ema_sigma_rel, ema_snapshots, precision, compile, gradient_checkpointing, deterministic, log_interval, "
              "save_interval, keep_interval, seed, schedule_sampler, label_dropout")


@pytest.mark.parametrize("line, expected", [
    ("model: {nm_res_blocks: 2}", "model.nm_res_blocks: unknown key; did you mean `num_res_blocks`?"),
    ("model: {lr: 2}", "model.lr: unknown key; did you mean `train.lr`?"),
    ("modle: {num_heads: 2}", "modle: unknown key; did you mean `model`?"),
    ("sweeps: {}", "sweeps: unknown key; did you mean `sweep`?"),
    ("extend: y.yaml", "extend: unknown key; did you mean `extends`?"),
    ("train.lr: 1", "train.lr: unknown key; write lr inside the section train"),
    ("zzz: 1", "zzz: unknown key; allowed: name, kind, data, model, diffusion, train, sample, evaluate, resources, extends, "
               "sweep"),
    ("sample: {zzz: 1}", "sample.zzz: unknown key; allowed: num_samples, batch_size, precision, compile, deterministic, "
                         "ema_rate, ema_sigma_rel, seed, at, sampler, ddim_eta, timestep_respacing, clip_denoised, "
                         "dynamic_thresholding_ratio, cuda_graph, guidance"),
    ("sample: {compile: true}", "sample.compile: must be false, blocks, default or max-autotune (got true)"),
    ("resources: {train: {node: 1}}", "resources.train.node: unknown key; did you mean `nodes`?"),
    ("model: {dropout: 1}", "model.dropout: must be less than 1 (got 1)"),
    ("model: {dropout: -0.5}", "model.dropout: must be at least 0 (got -0.5)"),
    ("model: {num_heads: 0}", "model.num_heads: must be at least 1 (got 0)"),
    ("model: {num_heads: four}", "model.num_heads: must be a whole number (got four)"),
    ("model: {num_heads: '4'}", 'model.num_heads: must be a whole number (got "4")'),
    ("model: {num_heads: null}", "model.num_heads: must be a whole number (got null)"),
    ("model: {channel_mult: 2}", "model.channel_mult: must be a list, such as [1, 2] or null (got 2)"),
    ("model: {channel_mult: [1, 0]}", "model.channel_mult[1]: must be greater than 0 (got 0)"),
    ("model: {learn_sigma: maybe}", "model.learn_sigma: must be true or false or null (got maybe)"),
    ("diffusion: {noise_schedule: cosin}", "diffusion.noise_schedule: must be 'linear' or 'cosine' (got cosin)"),
    ("diffusion: {loss: l2}", "diffusion.loss: must be 'simple', 'hybrid', 'vlb', 'hybrid_unscaled' or 'vlb_unscaled' "
                              "(got l2)"),
    ("sample: {ddim_eta: 1.5}", "sample.ddim_eta: must be at most 1 (got 1.5)"),
    ("sample: {ema_rate: fast}", "sample.ema_rate: must be a number or null (got fast)"),
    ("sample: {sampler: {a: [1, x]}}",
     "sample.sampler: must be 'ancestral', 'ddim', 'dpmpp_2m', 'unipc' or 'heun' (got {a: [1, x]})"),
    ("sample: {clip_denoised: static}", "sample.clip_denoised: must be true, false or dynamic (got static)"),
    ("sample: {clip_denoised: 1}", "sample.clip_denoised: must be true, false or dynamic (got 1)"),
    ("sample: {dynamic_thresholding_ratio: 0}", "sample.dynamic_thresholding_ratio: must be greater than 0 (got 0)"),
    ("sample: {dynamic_thresholding_ratio: 1.1}", "sample.dynamic_thresholding_ratio: must be at most 1 (got 1.1)"),
    ("sample: {timestep_respacing: logsnr}", "sample.timestep_respacing: 'logsnr' is not a respacing; write \"250\", "
                                             "\"10,15,20\", \"ddim50\", \"logsnr20\" or \"quad20\""),
    ("sample: {guidance: {kind: classifier_free}}", "sample.guidance.scale: required, but not given"),
    ("sample: {guidance: {scale: 1}}",
     "sample.guidance: must be a mapping whose kind is classifier_free, classifier or autoguidance (got {scale: 1})"),
    ("sample: {guidance: {kind: classifier_free, scale: 2, interval: [1, 1]}}",
     "sample.guidance.interval: must be [low, high] with 0 <= low < high, in sigma = sqrt((1 - alpha_bar) / alpha_bar), such as "
     "[0.3, 3] (got [1, 1])"),
    ("sample: {guidance: {kind: classifier, scale: 2, run: a/../b}}",
     "sample.guidance.run: write the folder of a run, such as runs/STUDY/NAME (got a/../b)"),
    ("sample: {ema_sigma_rel: 1e-300}", "sample.ema_sigma_rel: must be at least 1e-06 (got 1.0e-300)"),
    ("diffusion: {input_perturbation: 1e300}", "diffusion.input_perturbation: must be at most 10 (got 1.0e+300)"),
    ("diffusion: {loss_weight: p2, p2_gamma: 1e300}", "diffusion.p2_gamma: must be at most 10 (got 1.0e+300)"),
    ("diffusion: {loss_weight: p2, p2_k: 1e300}", "diffusion.p2_k: must be at most 1e+09 (got 1.0e+300)"),
    ("diffusion: {loss_weight: min_snr, min_snr_gamma: 1e300}", "diffusion.min_snr_gamma: must be at most 1e+09 (got 1.0e+300)"),
    ("sample: {timestep_respacing: logsnr4001}",
     "sample.timestep_respacing: logsnr4001: there are 4000 steps to choose from"),
    ("evaluate: {features: 3}", "evaluate.features: must be text (got 3)"),
    ("evaluate: {features: ''}", 'evaluate.features: must not be empty (got "")'),
    ('evaluate: {features: "a\\tb"}', "evaluate.features: control characters (newline, tab, ...) are not allowed "
                                      '(got "a\\U00000009b")'),
    ("resources: {train: {time: 24h}}", 'resources.train.time: write time as SLURM does: "2:30:00" is hours, "30:00" or 30 is '
                                        'minutes, "1-12" is days-hours; a job needs a limit (got "24h")'),
    ("resources: {train: {nodes: 4-1}}", 'resources.train.nodes: must be a number of nodes (1, 2, ...) or a range such as 1-4 '
                                         '(got "4-1")'),
    ("resources: {train: {mem_gb: -1}}", "resources.train.mem_gb: must be at least 0 (got -1)"),
    ("resources: {report: {nodes: 2}}", "resources.report.nodes: unknown key; did you mean `resources.train.nodes` or "
                                        "`resources.sample.nodes` or `resources.evaluate.nodes`?"),
    ("model: {channel_mult: [" + "1, " * 17 + "]}", "model.channel_mult: must have at most 16 entries (got [1, 1, 1, 1, 1, 1, 1, "
                                                   "1, 1, 1, 1, 1, 1, 1, 1, 1, 1])"),
    ("sample: {num_samples: 1e18}", "sample.num_samples: must be at most 1,000,000,000,000 (got 1.0e+18)"),
    ('evaluate: {features: "a\\x9bb"}', "evaluate.features: control characters (newline, tab, ...) are not allowed "
                                        '(got "a\\U0000009bb")'),
    ("evaluate:", "evaluate: must be a mapping with keys among reference, features, metrics, batch_size, seed, samplings, "
                  "nll_data, nll_examples, respacings (got null)"),
    ("resources: {train: 3}", "resources.train: must be a mapping with keys among nodes, gpus_per_node, "
                              "tasks_per_node, cpus_per_task, mem_gb, time (got 3)"),
    ("evaluate: {features: [" + "abcdefg, " * 20 + "]}",
     "evaluate.features: must be text (got [abcdefg, abcdefg, abcdefg, abcdefg, abcdefg, abcdefg, ab...)"),
    # contradictions between fields
    ("model: {num_heads: 3}", "model.num_heads: 3 heads do not divide the 256 channels of an attention layer"),
    ("model: {num_head_channels: 48}",
     "model.num_head_channels: heads of 48 channels do not divide the 256 channels of an attention layer"),
    ("model: {num_heads_upsample: 3}", "model.num_heads_upsample: 3 heads do not divide the 256 channels of an attention layer"),
    ("model: {channel_mult: [0.001, 1]}", "model.channel_mult: a level has less than one channel; 0.001 x num_channels 128 must "
                                          "be at least 1"),
    ("sample: {timestep_respacing: 5000}",
     "sample.timestep_respacing: section 1 of 1 has 4000 of the 4000 steps; 5000 cannot be taken from it"),
])
def test_what_is_wrong_is_said_with_file_line_and_key(write, line, expected):
    assert complaints_about(write(f"{SMALLEST}\n{line}\n")) == [f"x.yaml:5: {expected}"]


def test_wrong_values_of_train(write):
    path = write("name: x\ndata: {path: digits, image_size: 32}\ntrain:\n  iterations: 1000\n  lr: -1\n"
                 "  precision: bf17\n  zzz: 1\n  ema_rate: [0.99,\n    2]\n")
    assert complaints_about(path) == [
        "x.yaml:5: train.lr: must be greater than 0 (got -1)",
        "x.yaml:9: train.ema_rate[1]: must be less than 1 (got 2)",
        "x.yaml:6: train.precision: must be 'fp32', 'tf32', 'bf16' or 'fp16' (got bf17)",
        f"x.yaml:7: train.zzz: unknown key; allowed: {TRAIN_KEYS}"]


def test_an_item_is_placed_where_it_begins(write):
    assert complaints_about(write(SMALLEST + "evaluate:\n  metrics:\n    - fid\n    - [1,\n       2]\n")) == [
        "x.yaml:7: evaluate.metrics[1]: must be 'fid', 'sfid', 'inception_score', 'precision_recall', 'kid' "
        "or 'label_accuracy' (got [1, 2])"]


def test_missing_keys_are_named_at_their_section_or_file(write):
    assert complaints_about(write("data:\n  image_size: 32\nmodel: {num_heads: 4}\n")) == [
        "x.yaml: name: required, but not given",
        "x.yaml:1: data.path: required, but not given",
        "x.yaml: train: required, but not given"]


def test_a_contradiction_of_defaults_is_placed_at_the_file(write):
    assert complaints_about(write(SMALLEST.replace("1000", "1000, ema_rate: [0.99]"))) == [
        "x.yaml: sample.ema_rate: 0.9999 is not among train.ema_rate [0.99]"]


def test_very_many_complaints_are_cut(write):
    lines = complaints_about(write(SMALLEST + "".join(f"zzz{number}: 1\n" for number in range(MAX_COMPLAINTS + 7))))
    assert len(lines) == MAX_COMPLAINTS + 1 and lines[-1] == "... and 7 more"
