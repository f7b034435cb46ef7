"""Sweeps: which points, each against the library, computed once, and gone on with."""

import math
import statistics
from dataclasses import replace

import pytest

from bipcore.errors import Cancelled, InputError
from bipcore.pipeline import plans, workbench
from bipcore.pipeline.pipeline import Pipeline
from bipcore.settings import find_preset
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from bipcore.studies import sweep as sweeps
from bipcore.studies.points import DENSE, POINTS, SweepSpec, check_sweep, text_names
from bipcore.studies.sweep import run_sweep
from bipcore.views.sweep_tables import readable, refused, summary, sweep_frame
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import one_thread as one_thread

EVALUATION = EvaluationSpec(window=16, max_tokens=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelSpec:
    return ModelSpec(str(model_folder(tmp_path_factory.mktemp("sweep") / "model")), device="cpu")


@pytest.fixture
def spec(model) -> SweepSpec:
    return SweepSpec(
        model=model,
        criteria=("llm-bip", "magnitude"),
        sparsities=(0.2, 0.5),
        samples=(4,),
        calibration=CalibrationSpec(seq_len=16),
        texts=(EVALUATION,),
    )


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def computed(monkeypatch) -> list:
    """The tasks that are computed, not read."""
    found, original = [], sweeps._Measure._compute

    def counted(measure, task):
        found.append(task)
        return original(measure, task)

    monkeypatch.setattr(sweeps._Measure, "_compute", counted)
    return found


def points(pipeline, spec, **changes) -> list:
    return list(run_sweep(pipeline, replace(spec, **changes)))


def keys(found) -> list[tuple]:
    return [(p.label, p.sparsity, p.seed, p.samples) for p in found]


def stored(pipeline) -> dict[str, int]:
    """The stored points and when each was written."""
    folder = pipeline.store.root / "points"
    return {path.name: (path / "data.json").stat().st_mtime_ns for path in folder.glob("*")}


def test_the_dense_model_comes_first_then_every_criterion_at_every_sparsity(pipeline, spec):
    found = points(pipeline, spec)
    assert keys(found) == [
        (DENSE, 0.0, None, None),
        ("magnitude", 0.2, None, None),
        ("magnitude", 0.5, None, None),
        ("llm-bip", 0.2, 0, 4),
        ("llm-bip", 0.5, 0, 4),
    ]
    assert not any(point.error for point in found)


def test_a_point_says_what_the_pipeline_says(pipeline, spec):
    point = points(pipeline, spec)[-1]
    calibration = CalibrationSpec(samples=4, seq_len=16)
    plan = pipeline.plan(ScoreSpec(spec.model, calibration), PlanSpec(sparsity=0.5))
    result = pipeline.evaluate(spec.model, EVALUATION, plan)
    assert point.perplexity == {"builtin": result["perplexity"]}
    assert (point.realised, point.realised_total) == (plan.realised, plan.realised_total)
    assert point.parameters == plan.pruned_shape.parameters
    assert (point.seq_len, point.macs) == (128, plan.pruned_shape.macs(128))
    assert point.latency is None
    assert point.seconds > 0


def test_five_criteria_at_six_sparsities_take_one_statistics_pass(pipeline, spec, monkeypatch):
    passes, original = [], workbench.collect_statistics

    def counted(*args, **options):
        passes.append(args)
        return original(*args, **options)

    monkeypatch.setattr(workbench, "collect_statistics", counted)
    criteria = ("llm-bip", "llm-bip-gated", "wanda", "wanda-sp", "flap")
    sparsities = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    found = points(pipeline, spec, criteria=criteria, sparsities=sparsities)
    assert len([p for p in found if not p.error]) == 31
    assert len(passes) == 1


def test_a_model_is_pruned_once_for_all_its_texts(pipeline, spec, tmp_path, monkeypatch):
    (tmp_path / "other.txt").write_text("words " * 200)
    texts = (EVALUATION, replace(EVALUATION, text=str(tmp_path / "other.txt")))
    built, original = [], plans.apply_plan
    monkeypatch.setattr(plans, "apply_plan", lambda *a: built.append(a) or original(*a))
    found = points(pipeline, spec, texts=texts)
    assert len(built) == 4
    assert all(set(p.perplexity) == {"builtin", "other.txt"} for p in found)


def test_what_is_not_calibrated_has_one_point_a_sparsity_and_random_one_a_seed(pipeline, spec):
    criteria, some = ("magnitude", "random", "wanda"), {"seeds": (0, 1), "samples": (3, 4)}
    found = points(pipeline, spec, criteria=criteria, sparsities=(0.5,), **some)
    assert keys(found[1:]) == [
        ("magnitude", 0.5, None, None),
        ("random", 0.5, 0, None),
        ("random", 0.5, 1, None),
        ("wanda", 0.5, 0, 3),
        ("wanda", 0.5, 0, 4),
        ("wanda", 0.5, 1, 3),
        ("wanda", 0.5, 1, 4),
    ]
    values = [point.perplexity["builtin"] for point in found]
    assert len(set(values)) == len(values)


def test_a_compensation_makes_the_calibration_count(pipeline, spec):
    plan, criteria = PlanSpec(compensation="least-squares"), ("magnitude",)
    found = points(pipeline, spec, plan=plan, criteria=criteria, sparsities=(0.5,), seeds=(0, 1))
    assert keys(found[1:]) == [("magnitude", 0.5, 0, 4), ("magnitude", 0.5, 1, 4)]
    assert found[1].perplexity != found[2].perplexity


def test_sparsity_0_is_the_dense_model_computed_once(pipeline, spec, computed):
    found = points(pipeline, spec, sparsities=(0.0,), seeds=(0, 1))
    assert keys(found[1:]) == [("llm-bip", 0.0, None, None), ("magnitude", 0.0, None, None)]
    assert len(computed) == len(stored(pipeline)) == 1
    assert {point.perplexity["builtin"] for point in found} == {found[0].perplexity["builtin"]}
    assert all(point.realised == 0 for point in found)


def test_a_sweep_that_was_stopped_goes_on_where_it_was(pipeline, spec, computed):
    whole = sweep_frame(points(Pipeline(RunStore(pipeline.store.root.with_name("other"))), spec))
    computed.clear()
    running = run_sweep(pipeline, spec)
    for _ in range(3):
        next(running)
    running.close()
    before = stored(pipeline)
    again = sweep_frame(points(Pipeline(pipeline.store), spec))
    assert len(before) == 3
    assert len(computed) == 5
    assert before.items() <= stored(pipeline).items()
    figures = [name for name in whole.columns if name != "seconds"]
    assert again[figures].equals(whole[figures])


def test_a_whole_sweep_is_read_without_a_forward_pass(pipeline, spec):
    first = points(pipeline, spec)
    with counted_passes() as passes:
        assert points(Pipeline(pipeline.store), spec) == first
    assert passes == []


def test_what_does_not_matter_does_not_make_another_point(pipeline, spec, computed, tmp_path):
    (tmp_path / "other.txt").write_text("words " * 200)
    texts = (EVALUATION, replace(EVALUATION, text=str(tmp_path / "other.txt")))
    points(pipeline, spec, texts=texts)
    computed.clear()
    other = replace(spec.plan, sparsity=0.9, source="somewhere", allocation="uniform")
    calibration = replace(spec.calibration, samples=77, seed=5)
    changes = {"sparsities": (0.5, 0.2, 0.5), "presets": ("paper",)}
    found = points(
        pipeline, spec, texts=texts[::-1], plan=other, calibration=calibration, **changes
    )
    assert computed == []
    assert [p.label for p in found[1:]].count("paper") == 2


def test_a_preset_is_a_line_with_its_own_criterion_and_plan(pipeline, spec):
    found = points(pipeline, spec, criteria=(), presets=("recommended",), sparsities=(0.2,))
    values = dict(find_preset("recommended").values)
    criterion = values.pop("criterion")
    assert [(p.label, p.criterion) for p in found] == [(DENSE, DENSE), ("recommended", criterion)]
    score = ScoreSpec(spec.model, CalibrationSpec(samples=4, seq_len=16), criterion)
    plan = pipeline.plan(score, PlanSpec(**values))
    expected = pipeline.evaluate(spec.model, EVALUATION, plan)["perplexity"]
    assert found[1].perplexity["builtin"] == expected


def test_a_point_that_cannot_be_is_noted_and_the_others_go_on(pipeline, spec):
    plan = PlanSpec(propagation="pruned")
    found = points(pipeline, spec, plan=plan, sparsities=(0.2, 0.99))
    by_key = {(p.label, p.sparsity): p for p in found}
    assert not by_key["llm-bip", 0.2].error
    assert "ask for less" in by_key["llm-bip", 0.99].error
    assert "nothing to propagate" in by_key["magnitude", 0.2].error
    assert len(stored(pipeline)) == 2
    assert refused(sweep_frame(found))[0].startswith("magnitude at 20%, 99%: The criterion")


def test_refused_points_that_say_the_same_are_noted_together(pipeline, spec):
    plan = PlanSpec(allocation="sublayer")
    found = points(pipeline, spec, plan=plan, criteria=("llm-bip",), seeds=(0, 1))
    (note,) = refused(sweep_frame(found))
    assert note.startswith("llm-bip at 20%, 50%: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"criteria": ("no-such",)}, "no criterion 'no-such'"),
        ({"criteria": ()}, "at least one criterion"),
        ({"presets": ("no-such",)}, "no preset 'no-such'"),
        ({"sparsities": ()}, "list of sparsities is empty"),
        ({"seeds": ()}, "list of seeds is empty"),
        ({"samples": ()}, "list of calibration sizes is empty"),
        ({"texts": ()}, "list of test texts is empty"),
        ({"sparsities": (0.2, 1.0)}, "below 1, not 1.0"),
        ({"sparsities": (math.nan,)}, "not nan"),
        ({"sparsities": (-0.1,)}, "not -0.1"),
        ({"seeds": (0, -1)}, "not -1"),
        ({"samples": (0,)}, "at least 1, not 0"),
    ],
)
def test_a_spec_that_is_wrong_as_a_whole_is_refused_before_anything_is_loaded(
    pipeline, spec, changes, said
):
    with pytest.raises(InputError, match=said):
        run_sweep(pipeline, replace(spec, model=ModelSpec("/nowhere"), **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ModelSpec("/nowhere")}, "/nowhere does not exist"),
        ({"texts": (EvaluationSpec("/nowhere.txt"),)}, "no text called '/nowhere.txt'"),
        ({"texts": (EvaluationSpec(window=4096, max_tokens=None),)}, "128 positions"),
    ],
)
def test_a_model_or_a_text_that_cannot_be_used_ends_the_sweep(pipeline, spec, changes, said):
    with pytest.raises(InputError, match=said):
        points(pipeline, spec, **changes)


def test_a_run_store_that_cannot_be_written_ends_the_sweep(pipeline, spec, monkeypatch):
    running = run_sweep(pipeline, spec)
    next(running)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bipcore.store.runs._write_result", full)
    with pytest.raises(InputError, match="No space left"):
        next(running)


def test_progress_says_which_point_and_never_goes_back(pipeline, spec):
    seen = []
    pipeline.progress.report_to(lambda fraction, message: seen.append((fraction, message)))
    points(pipeline, spec, presets=("recommended",), criteria=("llm-bip",))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1
    assert list(dict.fromkeys(message for _, message in seen)) == [
        "dense model (1 of 5)",
        "llm-bip at 20 % (2 of 5)",
        "llm-bip at 50 % (3 of 5)",
        "recommended at 20 % (4 of 5)",
        "recommended at 50 % (5 of 5)",
    ]


def test_cancelling_keeps_the_finished_points(pipeline, spec, computed):
    def cancel(fraction, message):
        if "(4 of 5)" in message:
            raise Cancelled

    pipeline.progress.report_to(cancel)
    found = []
    with pytest.raises(Cancelled):
        found.extend(run_sweep(pipeline, spec))
    assert len(stored(pipeline)) == 3
    assert pipeline.progress.bounds == (0, 1)


def test_profiled_points_have_latency_and_memory(pipeline, spec):
    found = points(pipeline, spec, criteria=("magnitude",), sparsities=(0.5,), profile=True)
    for point in found:
        assert point.latency > 0
        assert point.tokens_per_second == pytest.approx(128 / point.latency)
        assert 4 * point.parameters <= point.peak_memory < 2**28


def test_the_summary_is_mean_and_sample_deviation_over_the_seeds(pipeline, spec):
    found = points(pipeline, spec, criteria=("wanda",), sparsities=(0.5,), seeds=(0, 1, 2))
    values = [point.perplexity["builtin"] for point in found[1:]]
    dense, row = summary(sweep_frame(found)).to_dict("records")
    assert (row["label"], row["samples"], row["seeds"]) == ("wanda", 4, 3)
    assert row["perplexity_builtin"] == pytest.approx(statistics.mean(values))
    assert row["perplexity_builtin_std"] == pytest.approx(statistics.stdev(values))
    assert (dense["label"], dense["seeds"]) == (DENSE, 0)
    assert math.isnan(dense["perplexity_builtin_std"])


def test_one_seed_has_no_deviation(pipeline, spec):
    means = summary(sweep_frame(points(pipeline, spec)))
    assert means["perplexity_builtin_std"].isna().all()


def test_the_readable_table_has_the_dense_model_once_and_units(pipeline, spec):
    found = points(pipeline, spec, sparsities=(0.0, 0.5), seeds=(0, 1))
    table = readable(sweep_frame(found), spec)
    assert table[""].tolist() == ["dense", "llm-bip", "magnitude"]
    assert table["Asked"].tolist() == ["0%", "50%", "50%"]
    assert "\u00a0±\u00a0" in table["Perplexity, builtin"][1]
    assert table["Parameters"][0].endswith(" M")
    assert table["Seeds"].tolist() == ["-", "2", "-"]


def test_texts_are_named_by_what_tells_them_apart():
    builtin, long = EvaluationSpec(window=16), EvaluationSpec(window=32)
    file = EvaluationSpec("/a/b.txt")
    assert list(text_names((builtin, file, file))) == ["builtin", "b.txt"]
    assert list(text_names((builtin, long))) == ["builtin-16", "builtin-32"]
    assert len(text_names((file, EvaluationSpec("/c/b.txt"), builtin))) == 3


def test_the_default_sweep_is_a_right_one():
    check_sweep(SweepSpec())


def test_a_point_of_another_version_is_not_taken_for_one(store):
    store.get(POINTS, {"n": 1}, lambda: {"realised": 0.1, "of": "another version"})
    store.get(POINTS, {"n": 2}, lambda: {"realised": 0.1})
    with pytest.warns(UserWarning, match=r"points/.* is damaged"):
        assert store.stored(POINTS, {"n": 1}) is None
    assert store.stored(POINTS, {"n": 2}) == {"realised": 0.1}
