"""The Compare page: criteria side by side, and their charts."""

from dataclasses import replace

import pytest

from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.comparison import (
    CLASSES,
    compare_criteria,
    compare_plans,
    head_classes,
    over_all_blocks,
    overlap_matrix,
)
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from bipcore.views.plans import (
    bound_chart,
    bound_frame,
    class_bars,
    class_map,
    overlap_chart,
    overlap_matrix_chart,
    pairs_with,
    plan_frame,
    plan_map,
    rank_correlation_chart,
)
from tests.helpers.apptest import charts, errors, read, settle, start
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes
from tests.helpers.shapes import SMALL_GQA, random_scores
from ui.jobs import worker

PAGE, OFFER = "pages/compare.py", "ask-Score them"
NAMES = ("llm-bip", "wanda-sp", "magnitude")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: str(model_folder(root / name, name)) for name in ("llama", "mistral")}


def _finished(app):
    """The page once it has what it offers to compute, and waits for no job, nor any that it starts
    after another."""
    settle(app)
    for offered in [one for one in app.button if one.key == OFFER]:
        offered.click().run()
        settle(app)
    while app.get("progress"):
        settle(app)
    return app


def _open(page, **address):
    return _finished(start(page, **address))


@pytest.mark.parametrize("model", ["llama", "mistral"])
def test_the_page_compares_cheap_criteria_at_first(model, folders):
    app = _open(PAGE, model=folders[model], sparsity="0.5")
    assert errors(app) == []
    assert charts(app) == 8
    table = app.dataframe[0].value
    assert len(table) == 3 * 2
    assert table["share"].between(0, 1).all()


def test_what_another_calibration_set_would_change_is_shown_once_there_are_two(tmp_path):
    model = str(model_folder(tmp_path / "model", "llama"))
    spec = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=64))
    app = _open(PAGE, model=model, sparsity="0.5")
    assert any("and 1 are stored" in read(box.value) for box in app.info)
    Pipeline().scores(replace(spec, calibration=replace(spec.calibration, seed=7)))
    _finished(app)
    assert errors(app) == []
    assert charts(app) == 10
    assert any("seed 0; builtin, 4 × 64 tokens, seed 7" in read(c.value) for c in app.caption)


def test_where_no_head_goes_it_says_so_instead_of_an_empty_chart(folders):
    app = _open(PAGE, model=folders["llama"], sparsity="0.02")
    assert any(read(box.value).startswith("None of these plans removes any") for box in app.info)
    assert charts(app) == 6
    assert errors(app) == []


def test_a_visit_computes_nothing_but_the_chosen_criterion(tmp_path):
    model = str(model_folder(tmp_path / "model", "llama"))
    app = settle(start(PAGE, model=model))
    assert charts(app) == 0
    assert any("Not scored yet: " in read(box.value) for box in app.info)
    assert any(read(c.value).startswith("Magnitude: ") for c in app.caption)
    assert worker().active() == []
    assert charts(_finished(app)) == 8
    assert charts(settle(start(PAGE, model=model))) == 8


def test_the_criteria_share_one_pass(tmp_path):
    model = str(model_folder(tmp_path / "model", "llama"))  # so that no other seed is stored
    with counted_passes() as passes:
        app = _finished(start(PAGE, model=model, seed="5"))
    assert charts(app) == 8
    assert len(passes) == 1


def test_the_slider_and_the_choices_change_what_is_compared(folders):
    app = _open(PAGE, model=folders["llama"], sparsity="0.5")
    before = app.dataframe[0].value
    app.slider(key="set-percent").set_value(30).run()
    assert not before.equals(app.dataframe[0].value)
    app.selectbox(key="compare-first").set_value("magnitude").run()
    assert app.selectbox(key="compare-second").options == ["LLM-BIP", "Wanda-sp"]
    assert charts(app) == 8
    app.multiselect(key="compare-criteria").set_value(["llm-bip", "random"]).run()
    _finished(app)
    assert len(app.dataframe[0].value) == 2
    assert errors(app) == []


@pytest.mark.parametrize("chosen", [[], ["llm-bip"]])
def test_one_criterion_is_not_enough(chosen, folders):
    app = _open(PAGE, model=folders["llama"])
    app.multiselect(key="compare-criteria").set_value(chosen).run()
    assert any("at least two" in box.value for box in app.info)
    assert charts(app) == 0


def test_the_choice_outlives_a_change_of_page(folders):
    app = _open("app.py", model=folders["llama"])
    app.switch_page(PAGE).run()
    _finished(app)
    app.multiselect(key="compare-criteria").set_value(["llm-bip", "random"]).run()
    app.switch_page("pages/scores.py").run()
    app.switch_page(PAGE).run()
    assert app.multiselect(key="compare-criteria").value == ["llm-bip", "random"]


def test_plans_with_names_are_compared_with_any_other(folders, cache):
    model = folders["llama"]
    app = settle(start("pages/plan.py", model=model, sparsity="0.5"))
    app.button(key="plan-keep").click().run()
    assert "from 1 to 60 characters" in errors(app)[0]
    app.text_input(key="plan-name").set_value("half of *it*")
    app.button(key="plan-keep").click().run()
    assert errors(app) == []
    assert read(app.success[0].value).startswith("Kept as half of *it*: ")
    app = _open(PAGE, model=model, sparsity="0.3")
    assert app.selectbox(key="compare-first").options[-1] == "“half of *it*”"
    app.selectbox(key="compare-second").set_value("“half of *it*”").run()
    costs = next(one.value for one in app.dataframe if "Compensation" in one.value)
    assert list(costs["Removed, of the blocks"].str[:2]) == ["29", "49"]
    offered = next(one for one in app.button if one.label == "Measure both")
    offered.click().run()
    settle(app)
    table = app.dataframe[-1].value
    assert list(table["Model"]) == ["Original", "LLM-BIP", "“half of *it*”"]
    assert charts(app) == 8
    other = _open(PAGE, model=folders["mistral"], sparsity="0.3")
    assert "“half of *it*”" not in other.selectbox(key="compare-first").options


def test_a_criterion_that_the_settings_do_not_fit_is_named(folders):
    app = _open(PAGE, model=folders["llama"], allocation="uniform")
    app.multiselect(key="compare-criteria").set_value(["llm-bip", "blockpruner"]).run()
    _finished(app)
    assert len(errors(app)) == 1
    assert "blockpruner" in errors(app)[0]


@pytest.fixture(scope="module")
def scored():
    """Three criteria by name, with the plans of random scores."""
    found = {}
    for seed, name in enumerate(NAMES):
        scores = random_scores(SMALL_GQA, seed=seed)
        found[name] = scores, make_plan(scores, sparsity=0.5)
    return found


@pytest.fixture(scope="module")
def by_block(scored):
    return compare_criteria(scored)


def _trace(figure, word: str):
    return next(trace for trace in figure.data if word in (trace.name or ""))


def _figures(scored, by_block) -> dict:
    plans = [plan for _, plan in scored.values()]
    square = overlap_matrix(over_all_blocks(by_block), "head")
    bounds = bound_frame([(2.0, 0.5)] * 6, [(0.0, 0.0)] * 6)
    return {
        "ranks": rank_correlation_chart(by_block, "llm-bip", "channel"),
        "overlap": overlap_chart(by_block, "llm-bip", "head"),
        "jaccard": overlap_chart(by_block, "magnitude", "channel", "jaccard"),
        "matrix": overlap_matrix_chart(square, "head"),
        "map": class_map(head_classes(*plans[:2]), *NAMES[:2]),
        "bars": class_bars(compare_plans(*plans[:2]), *NAMES[:2]),
        "plan": plan_map(plan_frame(plans[0], plans[1]), 3),
        "bound": bound_chart(bounds),
    }


def test_every_chart_has_a_title_axes_and_exact_values_to_hover_over(scored, by_block):
    for name, figure in _figures(scored, by_block).items():
        layout = figure.layout
        assert layout.title.text, name
        assert layout.xaxis.title.text, name
        assert layout.yaxis.title.text, name
        assert all(trace.hovertemplate or trace.hoverinfo == "skip" for trace in figure.data), name
        assert layout.showlegend or name == "matrix"


def test_a_line_is_the_correlation_with_the_other_criterion(by_block):
    figure = rank_correlation_chart(by_block, "wanda-sp", "head")
    assert [trace.name for trace in figure.data] == ["LLM-BIP", "Magnitude"]
    pair = by_block.query("first == 'llm-bip' and second == 'wanda-sp' and kind == 'head'")
    assert list(figure.data[0].y) == pair["rank_correlation"].tolist()


def test_the_overlap_stands_beside_what_chance_gives(by_block):
    figure = overlap_chart(by_block, "llm-bip", "channel")
    pair = by_block.query("first == 'llm-bip' and second == 'magnitude' and kind == 'channel'")
    assert list(_trace(figure, "Magnitude").y) == pair["share"].tolist()
    assert list(figure.data[3].y) == pair["share_chance"].tolist()
    assert [trace.showlegend for trace in figure.data[1::2]] == [True, False]


def test_pairs_are_found_on_either_side(by_block):
    assert set(pairs_with(by_block, "wanda-sp")["other"]) == {"llm-bip", "magnitude"}


def test_the_classes_differ_in_colour_and_in_symbol(scored):
    plans = [plan for _, plan in scored.values()]
    figure = class_map(head_classes(*plans[:2]), *NAMES[:2])
    assert len(figure.data) == len(CLASSES)
    assert len({trace.marker.color for trace in figure.data}) == 4
    assert len({trace.marker.symbol for trace in figure.data}) == 4
    assert sum(len(trace.x) for trace in figure.data) == 8 * 6
    bars = class_bars(compare_plans(*plans[:2]), *NAMES[:2])
    assert len({trace.marker.pattern.shape for trace in bars.data}) == 4
    assert [sum(trace.y[i] for trace in bars.data) for i in range(6)] == [96] * 6


def test_every_head_of_a_plan_can_be_clicked_once(scored):
    before, plan = (scored[name][1] for name in NAMES[:2])
    heads = plan_frame(plan, before)
    figure = plan_map(heads)
    points = [tuple(data) for trace in figure.data[:2] for data in trace.customdata]
    assert sorted(points) == [(block, head) for block in range(6) for head in range(8)]
    removed = {tuple(data) for data in _trace(figure, "removed").customdata}
    assert removed == {(b, h) for b in range(6) for h in range(8) if h not in plan.blocks[b].heads}
    changed = {tuple(data) for data in _trace(figure, "changed").customdata}
    assert changed == {
        (b, h)
        for b in range(6)
        for h in range(8)
        if (h in plan.blocks[b].heads) != (h in before.blocks[b].heads)
    }


def test_the_predicted_error_has_a_line_for_all_and_one_for_the_channels():
    frame = bound_frame([(2.0, 0.5), (1.0, 0.25)], [(2.0, 0.5), (0.0, 0.0)])
    assert frame["before"].tolist() == [2.5, 1.25]
    assert frame["ffn_after"].tolist() == [0.5, 0.0]
    after = _trace(bound_chart(frame), "after, heads too")
    assert after.y[0] == 2.5
    assert after.y[1] != after.y[1]  # nothing is drawn where the logarithm has no value
