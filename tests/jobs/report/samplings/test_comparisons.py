"""Which sampling is the cheapest that is as good as the full chain, for one run, over seeds, and over a sweep."""

import pytest
from finished_study import finish
from made_benches import bench_of, rate
from sampled_study import chains, entry, evaluation, guided

from jobs.cost.count import run_cost
from jobs.report.families.members import Member
from jobs.report.families.table import lines_of
from jobs.report.samplings.sentences import rejections, unknown
from jobs.report.study import read_study
from jobs.report.write import report
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.storage.files import read_json, write_json


@pytest.fixture
def one(make_run):
    """one(curve) -> the study of a run whose evaluation says this."""
    def make(curve, **facts):
        run = make_run()
        finish(run, 1.0)
        write_json(run.evaluation, evaluation(curve) | facts)
        return read_study(run.path.parent)
    return make


@pytest.fixture
def swept(make_run, tmp_path):
    """swept(grid, curve_of) -> the study of a sweep, curve_of(differs) being the samplings of a run."""
    def make(grid, curve_of):
        make_run(folder="single")
        spec = tmp_path / "sweep.yaml"
        write_json(spec, read_json(tmp_path / "small.yaml") | {"sweep": {"grid": grid}})
        runs = freeze(load(spec, ()), tmp_path / "runs")
        for run in runs:
            finish(run, 1.0)
            write_json(run.evaluation, evaluation(curve_of(run.differs)))
        return read_study(runs[0].path.parent)
    return make


def test_the_cheapest_within_its_interval_is_named_with_what_it_saves_and_others_are_rejected(one):
    study = one(chains())
    [comparison] = study.comparisons
    assert comparison.full.name == "main" and comparison.cheapest.name == "unipc, logsnr8"
    verdict = next(line for line in study.answer if line.startswith("The cheapest sampling"))
    # The 30 s of the sampling stage, for 100 samples, are those of 99 evaluations: 40 - 8 of them are saved.
    assert "is unipc, logsnr8: 8 network evaluations a sample, FID 1.030 ± 0.040." in verdict
    assert "The full chain (ancestral: 40 evaluations) has 1.000 ± 0.050." in verdict
    assert "It saves 0.00269 hours for 100 samples (0:02 instead of 0:12) and 1.35 hours for 50,000 samples" in verdict
    assert "(20:12 instead of 1:41:01): 80 % of the evaluations; wall time as the samples were drawn." in verdict
    passes = {way.name: comparison.passes(way) for way in comparison.shorter}
    assert passes == {"unipc, logsnr4": False, "5 steps": False, "ddim, 5 steps": False, "heun, quad4": False,
                      "unipc, logsnr8": True, "ddim, 10 steps": True, "20 steps": True}


@pytest.mark.parametrize("fid, half, passes", [(1.05, 0.0500001, True), (1.06, 0.05, False), (0.5, 0.01, True), (1.0, 0.0, True)])
def test_within_its_interval_means_no_more_above_than_half_of_it(one, fid, half, passes):
    study = one([entry("ancestral", "", 40, 40, {"fid": 1.0}, {"fid": 0.3}),
                 entry("ddim", "10", 10, 10, {"fid": fid}, {"fid": half})])
    [comparison] = study.comparisons
    assert comparison.passes(comparison.shorter[0]) is passes
    assert (comparison.cheapest is not None) is passes
    if not passes:
        assert "No cheaper sampling has an FID within its interval of the full chain's, 1.00 ± 0.30 (ancestral, full chain)." in \
            study.answer[-1]


def test_of_several_full_chains_the_main_one_counts_and_none_is_called_none(one):
    full = entry("ddim", "", 40, 40, {"fid": 2.0}, {"fid": 0.1})
    assert one([*chains(), full]).comparisons[0].full.name == "main"


def test_intervals_as_wide_as_fid_decide_nothing_but_what_lies_outside_them(one):
    full = entry("ancestral", "", 40, 40, {"fid": 0.2}, {"fid": 0.2})
    close = entry("ddim", "10", 10, 10, {"fid": 0.3}, {"fid": 0.3})
    study = one([full, close, entry("ddim", "5", 5, 5, {"fid": 0.9}, {"fid": 0.3})])
    [comparison] = study.comparisons
    assert [comparison.passes(way) for way in comparison.ways[1:]] == [None, False] and comparison.cheapest is None
    assert not any("cheap" in line for line in study.answer)
    [said] = unknown([comparison])
    assert said.startswith("No shorter chain is called as good as the full chain: the 95 % intervals of FID are wider than FID")
    assert "Rejected: ddim, 5 steps" in rejections([comparison])[0]


def test_without_a_full_chain_nothing_is_called_as_good(one):
    short = [entry("ddim", "10", 10, 10, {"fid": 1.0}, {"fid": 0.1}), entry("ddim", "5", 5, 5, {"fid": 1.0}, {"fid": 0.1})]
    study = one(short)
    assert study.comparisons[0].full is None and not any("cheapest" in line for line in study.answer)


def test_the_page_says_why_there_is_no_verdict(one):
    short = [entry("ddim", "10", 10, 10, {"fid": 1.0}, {"fid": 0.1}), entry("ddim", "5", 5, 5, {"fid": 1.0}, {"fid": 0.1})]
    [reason] = unknown(one(short).comparisons)
    assert reason.startswith("No sampling goes along the full chain of 40 steps, so nothing tells which shorter one is as good.")


def test_without_intervals_the_page_says_what_they_need(one):
    study = one([entry("ancestral", "", 40, 40, {"fid": 1.0}, {"fid": 0.1}), entry("ddim", "5", 5, 5, {"fid": 1.0})])
    [reason] = unknown(study.comparisons)
    assert reason.startswith("FID of the shorter chains has no interval, which needs 20 samples")


@pytest.mark.parametrize("half, words", [
    (0.3, " The interval is wide, ± 30 % of FID: more samples may decide otherwise."), (0.2, "")])
def test_a_wide_interval_is_called_wide(one, half, words):
    full = entry("ancestral", "", 40, 40, {"fid": 1.0}, {"fid": 0.1})
    study = one([full, entry("ddim", "5", 5, 5, {"fid": 1.0}, {"fid": half})])
    assert unknown(study.comparisons) == []
    assert study.answer[-1].endswith("as the samples were drawn." + words)


def test_lines_have_the_names_of_the_sampler_and_its_spacing(one):
    respacings = {"ddim10": "ddim even stride", "5,5": "ddim sections", "10": "ddim", "logsnr10": "ddim logsnr"}
    shorter = [entry("ddim", each, 10, 10, {"fid": 1.0}) for each in respacings]
    study = one([entry("ancestral", "", 40, 40, {"fid": 1.0}), *shorter])
    assert [way.family for way in study.comparisons[0].ways] == ["ancestral", *respacings.values()]


def test_guidance_is_compared_with_the_full_chain_of_equal_guidance_only(one):
    guidance = {"kind": "autoguidance", "scale": 2.0}
    study = one([*chains(), entry("ancestral", "", 40, 80, {"fid": 0.5}, {"fid": 0.05}, guidance=guidance),
                 entry("heun", "5", 5, 18, {"fid": 0.52}, {"fid": 0.05}, guidance=guidance)])
    main, with_guidance = study.comparisons
    assert main.cheapest.name == "unipc, logsnr8"
    assert with_guidance.cheapest.evaluations == 18 and with_guidance.full.evaluations == 80
    assert any(line.startswith("guidance autoguidance 2: The cheapest") for line in study.answer)


def test_over_seeds_the_mean_difference_counts_with_students_interval(swept):
    def curve(differs):
        seed = differs["train.seed"]
        full, short = entry("ancestral", "", 40, 40, {"fid": 1.0 + seed}, {"fid": 0.01}), [0.02, 0.08, -0.02][seed]
        return [full, entry("ddim", "10", 10, 10, {"fid": 1.0 + seed + short}, {"fid": 0.01}),
                entry("ddim", "5", 5, 5, {"fid": 1.5 + seed}, {"fid": 0.01})]
    study = swept({"train.seed": [0, 1, 2]}, curve)
    [comparison] = study.comparisons
    middle, shortest = comparison.ways[1:]
    assert len(middle.entries) == 3
    gap, error = comparison.gap(middle)
    assert gap == pytest.approx(0.08 / 3) and error == pytest.approx(4.303 * 0.0503322 / 3 ** 0.5, rel=1e-4)
    assert comparison.cheapest is middle and comparison.passes(shortest) is False


def test_a_sweep_of_trainings_has_a_verdict_for_each(swept):
    study = swept({"diffusion.loss": ["simple", "hybrid"]}, lambda differs: chains(differs["diffusion.loss"] == "simple"))
    assert [comparison.training for comparison in study.comparisons] == ["loss=simple", "loss=hybrid"]
    assert [line.partition(": ")[0] for line in study.answer if "cheapest" in line] == ["loss=simple", "loss=hybrid"]


def test_a_sweep_of_ways_to_sample_is_one_comparison(swept):
    fids = {("ancestral", ""): 1.0, ("ddim", ""): 1.1, ("ancestral", "10"): 1.02, ("ddim", "10"): 1.5}

    def curve(differs):
        sampler, respacing = differs["sample.sampler"], differs["sample.timestep_respacing"]
        steps = int(respacing or 40)
        return [entry(sampler, respacing, steps, steps, {"fid": fids[sampler, respacing]}, {"fid": 0.05}) | {"differs": {}}]
    study = swept({"sample.sampler": ["ancestral", "ddim"], "sample.timestep_respacing": ["", "10"]}, curve)
    [comparison] = study.comparisons
    assert comparison.full.described == "ancestral, full chain" and comparison.cheapest.described == "ancestral, 10 steps"
    assert [comparison.passes(way) for way in comparison.shorter] == [True, False]


def test_lines_over_guidance_have_their_scales_and_the_point_without(one):
    study = one([*chains(), *guided()])
    lines = {line.kind: line for line in study.guided}
    assert list(lines) == ["autoguidance", "classifier", "classifier_free"]
    x, y, errors = lines["classifier"].points("fid")
    assert x == [0.0, 0.5, 1.0, 4.0] and y[0] == 1.0 and errors[0] == pytest.approx(0.05)
    assert lines["classifier_free"].points("fid")[0] == [1.0, 1.5, 2.0, 3.0]
    assert lines["autoguidance"].points("recall")[0] == [1.0, 1.3, 1.7]
    assert all(line.unguided.name == "main" for line in lines.values())


def test_evaluations_of_earlier_versions_are_read(one):
    main, *others = chains()
    study = one([main, *({key: value for key, value in each.items() if key not in ("evaluations", "differs", "intervals")}
                         for each in others)])
    [comparison] = study.comparisons
    assert [way.name for way in comparison.ways][:4] == ["main", "20 steps", "5 steps", "ddim, 10 steps"]
    assert [way.evaluations for way in comparison.ways][:4] == [40, 20, 5, 10]
    assert comparison.cheapest is None and all(comparison.passes(way) is None for way in comparison.shorter)


def test_hours_of_a_stage_that_nobody_timed_are_planned_or_not_known(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run()
    finish(run, 1.0)
    write_json(run.evaluation, evaluation(chains()))
    (run.path / "stages.jsonl").unlink()

    def verdict():
        return next(line for line in read_study(run.path.parent).answer if line.startswith("The cheapest"))
    assert "It saves 80 % of the evaluations; hours are not known" in verdict()
    bench = bench_of(run.spec, rate("sample", 4, 10.0))
    (tmp_path / "bench-here.json").write_text(bench.model_dump_json())
    # Ten images' steps a second: (40 - 8) of 40 evaluations of 100 samples.
    assert "It saves 0.0889 hours for 100 samples (1:20 instead of 6:40) and 44.4 hours for 50,000 samples" in verdict()
    assert "planned by the newest bench-*.json" in verdict()
    (tmp_path / "bench-here.json").write_text("{}")
    assert "hours are not known" in verdict()


def test_hours_and_flop_of_a_sample_count_a_guide_by_its_own_network(make_run, tmp_path):
    make_run(folder="single")
    spec = tmp_path / "sweep.yaml"
    guidance = {"kind": "autoguidance", "run": "large", "scale": 2}
    write_json(spec, read_json(tmp_path / "small.yaml") | {"sweep": {"list": [
        {"name": "large", "model.num_channels": 16}, {"name": "guided", "sample.guidance": guidance}]}})
    large, guided_run = freeze(load(spec, ()), tmp_path / "runs")
    finish(guided_run, 1.0)
    main = entry("ancestral", "", 40, 80, {"fid": 1.0}, {"fid": 0.05})
    alone = entry("ancestral", "", 40, 40, {"fid": 1.1}, {"fid": 0.05}, guidance=None)
    unreadable = entry("ancestral", "", 40, 40, {"fid": 1.1}, {"fid": 0.05}, guidance={"kind": "of later versions"})
    write_json(guided_run.evaluation, evaluation([main, alone, unreadable]))
    own, others = run_cost(guided_run.spec).forward_flops, run_cost(large.spec).forward_flops
    study, ratio = read_study(guided_run.path.parent), others / own
    ways = [way for members in study.ways.values() for way in members]
    assert ratio > 2 and [way.seconds for way in ways] == pytest.approx([30 * part / (3 + ratio) for part in (1 + ratio, 1, 1)])
    point = next(point for point in study.points if point.name == "guided")
    [line] = lines_of([Member(point, "IDDPM", ways[:1], None, {})])
    assert line.sample_flops == pytest.approx(40 * (own + others))


def test_a_scale_that_is_no_guidance_stands_for_the_sampling_without_guidance(one):
    def of(kind, scale):
        return entry("ancestral", "", 40, 80, {"fid": 1 + scale}, {"fid": 0.05}, guidance={"kind": kind, "scale": scale})
    study = one([of("classifier_free", 2.0), of("classifier_free", 1.0), of("classifier", 1.0), of("classifier", 0.0)])
    free = next(line for line in study.guided if line.kind == "classifier_free")
    assert [(line.kind, line.unguided.value("fid")) for line in study.guided] == [("classifier", 1.0), ("classifier_free", 2.0)]
    assert free.points("fid")[0] == [1.0, 2.0]
    page = report(study.folder).read_text()
    assert page.count(">without guidance</text>") == 2


def test_the_answer_says_at_which_scale_of_guidance_fid_is_lowest(one):
    def of(scale, fid, kind="classifier_free"):
        metrics = {"fid": fid, "precision": 0.7 + scale / 10, "recall": 0.9 - scale / 10}
        return entry("ancestral", "", 40, 80, metrics, {"fid": 0.02}, guidance={"kind": kind, "scale": scale})
    plain = entry("ancestral", "", 40, 40, {"fid": 1.0, "precision": 0.8, "recall": 0.85}, {"fid": 0.02})
    study = one([plain, of(1.5, 0.9), of(2.0, 0.95), of(0.5, 0.99, "classifier"), of(2.0, 1.1, "autoguidance")])
    assert [line for line in study.answer if line.startswith("Guidance")] == [
        "Guidance of kind autoguidance: at no scale is FID lower than without guidance, 1.000 ± 0.020.",
        "Guidance of kind classifier: FID is lowest at scale 0.5, 0.990 ± 0.020 against 1.000 ± 0.020 without guidance, which is "
        "within the error. There precision is 0.750 instead of 0.800, recall is 0.850 instead of 0.850.",
        "Guidance of kind classifier_free: FID is lowest at scale 1.5, 0.900 ± 0.020 against 1.000 ± 0.020 without guidance, "
        "which is more than the error. There precision is 0.850 instead of 0.800, recall is 0.750 instead of 0.850."]
