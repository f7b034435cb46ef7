"""The Plan page: heads and channels by hand, undo, and the plan that all pages take."""

import json

import pytest

from bipcore.errors import InputError
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning import editing
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.editing import edits
from bipcore.pruning.plan import PruningPlan, load_plan
from tests.helpers.apptest import button, charts, errors, field, metric, open_page, settle
from tests.helpers.folders import model_folder
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, random_scores
from ui.plan_editor import Editor, clicked, continued, identity_of, read_plan, toggled, with_heads
from ui.settings import Settings

PAGE = "pages/plan.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: str(model_folder(root / name, name)) for name in ("llama", "mistral")}


@pytest.fixture(params=["llama", "mistral"])
def app(request, folders):
    """The page of a tiny model with a key/value head for every head, and of one without."""
    return open_page(PAGE, model=folders[request.param])


@pytest.fixture
def mha(folders):
    return open_page(PAGE, model=folders["llama"])


@pytest.fixture
def gqa(folders):
    return open_page(PAGE, model=folders["mistral"])


@pytest.fixture
def whole(folders):
    """The page reached from the start page, so that others can be reached from it."""
    app = open_page("app.py", model=folders["llama"])
    app.switch_page(PAGE).run()
    return settle(app)


def _editor(app) -> Editor:
    return app.session_state["plan-editor"]


def _plan(app) -> PruningPlan:
    return _editor(app).plan


def _kept(app) -> list[int]:
    return sorted(app.pills(key="plan-heads").value)


def _upload(app, plan: PruningPlan | bytes) -> None:
    content = plan if isinstance(plan, bytes) else plan.to_json().encode()
    app.file_uploader(key="plan-upload").set_value(("plan.json", content, "application/json"))
    app.run()


def test_the_page_shows_the_sidebars_plan(app):
    assert charts(app) == 2
    assert errors(app) == []
    plan = _plan(app)
    assert _kept(app) == list(plan.blocks[0].heads)
    assert app.slider(key="plan-channels").value == len(plan.blocks[0].channels)
    assert metric(app, "Parameters") == f"{plan.pruned_shape.parameters / 1e6:,.1f} M"
    assert button(app, "Use this plan").disabled
    assert button(app, "Undo").disabled


def test_a_head_goes_and_comes_back(app):
    before = _plan(app)
    wanted = _kept(app)[1:]
    app.pills(key="plan-heads").set_value(wanted).run()
    assert set(_kept(app)) < set(before.blocks[0].heads)
    assert _plan(app).pruned_shape.parameters < before.pruned_shape.parameters
    button(app, "Undo").click().run()
    assert _plan(app) is before
    assert _kept(app) == list(before.blocks[0].heads)


def test_in_gqa_one_of_every_other_group_goes_with_it(gqa):
    before = set(_kept(gqa))
    head = min(before)
    gqa.pills(key="plan-heads").set_value(sorted(before - {head})).run()
    gone = before - set(_kept(gqa))
    assert head in gone
    assert sorted({h // 2 for h in gone}) == [0, 1, 2, 3]
    assert "and with it heads" in edits(_plan(gqa))[0]


def test_channels_are_chosen_by_score(app):
    app.slider(key="plan-channels").set_value(30).run()
    assert len(_plan(app).blocks[0].channels) == 30
    app.slider(key="plan-channels").set_value(96).run()
    assert len(_plan(app).blocks[0].channels) == 96
    button(app, "Undo").click().run()
    assert app.slider(key="plan-channels").value == 30


def test_the_buttons_of_a_block_do_what_they_say(app):
    base = _plan(app)
    app.selectbox(key="plan-block-widget").set_value(2).run()
    button(app, "Remove FFN").click().run()
    assert _plan(app).blocks[2].channels == ()
    button(app, "Remove attention").click().run()
    assert _plan(app).blocks[2].heads == ()
    assert _kept(app) == []
    button(app, "Keep everything").click().run()
    assert _plan(app).pruned_shape.blocks[2] == base.shape.blocks[2]
    assert len(_editor(app).history) == 3
    button(app, "As before").click().run()
    assert _plan(app).blocks == base.blocks
    button(app, "Undo all").click().run()
    assert _plan(app) is base
    assert app.selectbox(key="plan-block-widget").value == 2


def test_what_cannot_be_done_is_said_and_the_page_goes_on(mha):
    for block in (0, 1):
        mha.selectbox(key="plan-block-widget").set_value(block).run()
        button(mha, "Remove attention").click().run()
    mha.selectbox(key="plan-block-widget").set_value(2).run()
    button(mha, "Remove attention").click().run()
    assert "no token could see another" in errors(mha)[0]
    assert len(_plan(mha).blocks[2].heads) > 0
    mha.run()
    assert errors(mha) == []


def test_the_predicted_error_follows_the_edits(app):
    labels = ("Sum over the blocks, FFN channels", "Sum over the blocks, heads too")

    def sums() -> list[float]:
        return [float(metric(app, label).replace(",", "")) for label in labels]

    before = sums()
    button(app, "Remove FFN").click().run()
    without_ffn = sums()
    assert all(now > was for now, was in zip(without_ffn, before, strict=True))
    button(app, "Remove attention").click().run()
    without_both = sums()
    assert without_both[0] == without_ffn[0]
    assert without_both[1] > without_ffn[1]
    button(app, "Keep everything").click().run()
    assert all(now < was for now, was in zip(sums(), before, strict=True))


def test_a_plan_in_use_is_the_one_of_all_pages(whole, tmp_path):
    button(whole, "Remove FFN").click().run()
    plan = _plan(whole)
    button(whole, "Use this plan").click().run()
    assert errors(whole) == []
    assert any("in use on all pages" in box.value for box in whole.success)
    assert whole.query_params["source"]
    whole.switch_page("pages/export.py").run()
    settle(whole)
    assert metric(whole, "Parameters") == f"{plan.pruned_shape.parameters / 1e6:,.1f} M"
    whole.checkbox(key="measure").set_value(False)
    field(whole, "Folder").set_value(str(tmp_path / "out"))
    whole.button(key="export").click().run()
    settle(whole)
    assert errors(whole) == []
    exported = load_plan(tmp_path / "out")
    assert exported.blocks == plan.blocks
    assert edits(exported) == ["block 0: FFN removed"]


def test_edits_outlive_a_change_of_page_and_can_still_be_undone(whole):
    base = _plan(whole)
    button(whole, "Remove FFN").click().run()
    button(whole, "Use this plan").click().run()
    whole.switch_page("pages/scores.py").run()
    whole.switch_page(PAGE).run()
    assert edits(_plan(whole)) == ["block 0: FFN removed"]
    button(whole, "Undo").click().run()
    assert _plan(whole) is base


def test_going_back_to_the_sidebar_keeps_the_edits_for_later(mha):
    button(mha, "Remove FFN").click().run()
    button(mha, "Use this plan").click().run()
    mha.button(key="drop-plan").click().run()
    mha.run()
    assert "source" not in mha.query_params
    assert edits(_plan(mha)) == ["block 0: FFN removed"]
    assert not button(mha, "Use this plan").disabled


def test_another_setting_starts_over(mha):
    button(mha, "Remove FFN").click().run()
    mha.slider(key="set-percent").set_value(40).run()
    assert edits(_plan(mha)) == []
    assert _plan(mha).spec["sparsity"] == 0.4


def test_another_criterion_starts_over(mha):
    button(mha, "Remove FFN").click().run()
    mha.selectbox(key="set-criterion").set_value("magnitude").run()
    settle(mha)
    assert edits(_plan(mha)) == []
    assert charts(mha) == 2  # the predicted error has LLM-BIP's scores


def test_a_plan_in_the_address_is_where_the_edits_start_from(mha, folders):
    button(mha, "Remove FFN").click().run()
    plan = _plan(mha)
    name = Pipeline().keep_plan(plan)
    app = open_page(PAGE, model=folders["llama"], source=name)
    assert _plan(app) == plan
    button(app, "Keep everything").click().run()
    assert _editor(app).base == plan


def test_a_plan_is_uploaded_as_one_more_edit(app):
    base = _plan(app)
    other = editing.drop_ffn(base, 1)
    _upload(app, other)
    assert errors(app) == []
    assert _plan(app) == other
    button(app, "Undo").click().run()
    assert _plan(app) is base


def test_a_plan_without_a_spec_is_taken(mha):
    _upload(mha, PruningPlan(_plan(mha).shape, _plan(mha).blocks))
    assert errors(mha) == []
    assert charts(mha) == 2


@pytest.mark.parametrize("said", [{}, {"samples": "x", "seq_len": 2}, {"samples": None}, [1], "x"])
def test_a_plan_whose_notes_are_not_ours_is_shown(mha, said):
    plan = _plan(mha)
    spec = {**plan.spec, "compensation": "least-squares", "compensation_calibration": said}
    _upload(mha, PruningPlan(plan.shape, plan.blocks, spec | {"unit": [], "edited": [None, "*x*"]}))
    assert errors(mha) == []
    assert any(r"\*x\*" in markdown.value for markdown in mha.markdown)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "not text"),
        (b"[]", "not a pruning plan"),
        (b'{"format": "bipcore-plan/9"}', "has the format"),
        (make_plan(random_scores(SMALL_MHA), sparsity=0).to_json().encode(), "another shape"),
    ],
)
def test_a_file_that_is_no_plan_of_this_model_is_refused(mha, content, said):
    before = _plan(mha)
    _upload(mha, content)
    assert said in errors(mha)[0]
    assert _plan(mha) is before
    assert charts(mha) == 2


def test_the_perplexity_is_measured_by_a_job(mha, folders):
    mha.button(key="plan-measure").click().run()
    settle(mha)
    assert errors(mha) == []
    assert float(metric(mha, "Perplexity, dense").replace(",", "")) > 1
    assert metric(mha, "Perplexity, this plan") != metric(mha, "Perplexity, dense")
    button(mha, "Remove FFN").click().run()
    assert not any(m.label == "Perplexity, dense" for m in mha.metric)


def test_the_download_is_the_plan(mha):
    button(mha, "Remove FFN").click().run()
    names = [element.proto.label for element in mha.get("download_button")]
    assert "Download plan.json" in names
    again = PruningPlan.from_json(json.dumps(json.loads(_plan(mha).to_json())))
    assert again == _plan(mha)


EVENT = {"selection": {"points": [{"customdata": [3, 5]}]}}


@pytest.mark.parametrize(
    ("event", "point"),
    [
        (EVENT, (3, 5)),
        ({"selection": {"points": [{"customdata": {"0": 3, "1": 5}}]}}, (3, 5)),
        ({"selection": {"points": []}}, None),
        ({"selection": {"points": [{}]}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_click_names_a_block_and_a_head(event, point):
    assert clicked(event) == point


@pytest.mark.parametrize("shape", [SMALL_MHA, SMALL_GQA])
def test_a_second_click_on_the_lowest_head_takes_the_first_one_back(shape):
    scores = random_scores(shape)
    plan = make_plan(scores, sparsity=0.3)
    head = min(plan.blocks[1].heads, key=lambda h: float(scores.blocks[1].heads[h]))
    once = toggled(plan, 1, head, scores)
    assert head not in once.blocks[1].heads
    assert toggled(once, 1, head, scores).blocks == plan.blocks


def test_several_heads_are_changed_at_once():
    scores = random_scores(SMALL_MHA)
    plan = make_plan(scores, sparsity=0)
    assert with_heads(plan, 0, {1, 2, 3}, scores).blocks[0].heads == (1, 2, 3)
    few = with_heads(plan, 0, {1, 2, 3}, scores)
    assert with_heads(few, 0, {0, 3}, scores).blocks[0].heads == (0, 3)
    shared = random_scores(SMALL_GQA)
    plan = make_plan(shared, sparsity=0)
    assert len(with_heads(plan, 0, set(range(2, 8)), shared).blocks[0].heads) == 4


def test_edits_belong_to_the_settings_they_were_made_with(folders):
    settings = Settings(model=folders["llama"])
    plan = make_plan(random_scores(SMALL_MHA), sparsity=0.3)
    editor = Editor(identity_of(settings), "", plan).edited(editing.drop_ffn(plan, 0))
    assert continued(editor, settings, plan) is editor
    for change in ({"sparsity": 0.3}, {"criterion": "wanda"}, {"seed": 1}, {"source": "0" * 16}):
        other = continued(editor, Settings(model=folders["llama"], **change), plan)
        assert other.history == ()


def test_the_plan_of_an_upload_has_to_be_of_the_same_model():
    plan = make_plan(random_scores(SMALL_GQA), sparsity=0.3)
    assert read_plan(plan.to_json().encode(), plan) == plan
    with pytest.raises(InputError, match="another shape"):
        read_plan(make_plan(random_scores(SMALL_MHA), sparsity=0.3).to_json().encode(), plan)


def test_only_so_many_edits_can_be_undone():
    scores = random_scores(SMALL_MHA)
    editor = Editor("", "", make_plan(scores, sparsity=0.3))
    for count in range(1, 80):
        plan = editing.keep_channel_count(editor.plan, 0, count, scores)
        editor = editor.edited(plan)
    assert len(editor.history) == 50
    assert editor.reset().plan is editor.base
