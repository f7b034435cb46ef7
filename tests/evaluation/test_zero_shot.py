"""Zero-shot tasks on tiny models: the figures of lm_eval, of a model that is left as it was."""

import ast
import json
import logging
import random
import threading
from itertools import pairwise

import numpy
import pytest
import torch
import yaml

from bipcore.data.tasks import KNOWN, defined_names, read_rows, tasks_folder
from bipcore.errors import Cancelled, InputError
from bipcore.evaluation.harness import Scorer
from bipcore.evaluation.zero_shot import (
    TaskResult,
    average,
    check_tasks,
    run_task,
    shares,
    task_identity,
)
from bipcore.progress import silent
from bipcore.specs import SEVEN, ZeroShotSpec
from tests.helpers.folders import byte_model, text_tokenizer
from tests.helpers.tasks import ROWS, write_rows
from tests.helpers.tiny import one_thread, tiny_model  # noqa: F401
from tests.test_imports import CORE, ROOT, imports_of

SPLITS = ("training", "validation", "test")
_DEFS = (ast.FunctionDef, ast.ClassDef)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with the hand-made rows."""
    folder = write_rows(tmp_path / "data")
    monkeypatch.setenv("BIPCORE_DATA", str(folder))
    return folder


@pytest.fixture(scope="module")
def model():
    return byte_model()


@pytest.fixture(scope="module")
def tokenizer():
    return text_tokenizer()


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _definition(folder, task: str) -> None:
    """A YAML file that lets the shipped definition read ``<task>.json`` in ``folder``."""
    known, rows = KNOWN[task], ROWS[task]
    if task == "boolq":
        rows = [row | {"label": int(row["answer"])} for row in rows]
    (folder / f"{task}.json").write_text("\n".join(map(json.dumps, rows)))
    files = {"data_files": {known.split: str(folder / f"{task}.json")}}
    text = {
        "include": str(tasks_folder() / known.yaml),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": files | {"cache_dir": str(folder / "cache")},
        **{f"{s}_split": s if s == known.split else None for s in SPLITS},
    }
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(text))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What `lm_eval.simple_evaluate` says of the same rows, by task."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("plain")
    for task in SEVEN:
        _definition(folder, task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # takes seconds
        return simple_evaluate(
            model=HFLM(pretrained=byte_model(), tokenizer=text_tokenizer(), batch_size=3),
            tasks=list(SEVEN),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            num_fewshot=0,
        )["results"]


@pytest.mark.parametrize("task", SEVEN)
def test_the_figures_are_those_of_a_plain_lm_eval_run(data, model, tokenizer, plain, task):
    result = run_task(model, tokenizer, task, batch_size=3)
    theirs = {k: v for k, v in plain[task].items() if k.endswith(",none")}
    ours = {f"{name},none": value for name, value in result.metrics.items()}
    ours |= {f"{name}_stderr,none": value for name, value in result.stderrs.items()}
    assert ours == theirs
    assert result.samples == len(ROWS[task])
    assert (result.task, result.num_fewshot) == (task, 0)


def _log_likelihood(model, tokenizer, context: str, answer: str) -> float:
    """Σ log p of the tokens of ``answer`` after ``context``, by the last 128 positions."""
    before, after = tokenizer.encode(context), tokenizer.encode(answer)
    tokens = torch.tensor([(before + after)[-129:]])
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits[0].double()
    scores = logits.log_softmax(-1)[-len(after) :]
    return sum(float(scores[i, token]) for i, token in enumerate(after))


def _slowly(model, tokenizer, rows) -> dict[str, float]:
    """acc and acc_norm of (context, answers, index of the right one)."""
    right = {"acc": 0, "acc_norm": 0}
    for context, answers, gold in rows:
        scores = [_log_likelihood(model, tokenizer, context, " " + text) for text in answers]
        normed = [score / len(text) for score, text in zip(scores, answers, strict=True)]
        right["acc"] += scores.index(max(scores)) == gold
        right["acc_norm"] += normed.index(max(normed)) == gold
    return {name: count / len(rows) for name, count in right.items()}


def _piqa() -> list:
    return [
        (f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"])
        for row in ROWS["piqa"]
    ]


def _arc_easy() -> list:
    return [
        (
            f"Question: {row['question']}\nAnswer:",
            row["choices"]["text"],
            row["choices"]["label"].index(row["answerKey"]),
        )
        for row in ROWS["arc_easy"]
    ]


@pytest.mark.parametrize(("task", "rows"), [("piqa", _piqa()), ("arc_easy", _arc_easy())])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_accuracies_are_those_of_a_slow_loop_over_log_likelihoods(
    data, tokenizer, task, rows, seed
):
    model = byte_model(seed=seed)
    result = run_task(model, tokenizer, task)
    assert result.metrics == _slowly(model, tokenizer, rows)
    share = result.metrics["acc"]
    assert result.stderrs["acc"] == pytest.approx((share * (1 - share) / (len(rows) - 1)) ** 0.5)


def test_likelihoods_of_a_model_in_half_precision_are_taken_in_float32(tokenizer):
    half = byte_model().bfloat16()
    scorer = Scorer(half, tokenizer, batch_size=1, progress=silent)
    answers = [(context, " " + text) for context, texts, _ in _piqa() for text in texts]
    requests = [(pair, *map(tokenizer.encode, pair)) for pair in answers]
    found = scorer._loglikelihood_tokens(requests)
    for (value, _), pair in zip(found, answers, strict=True):
        assert value == pytest.approx(_log_likelihood(half, tokenizer, *pair), rel=1e-5)


def _state(model, tokenizer) -> list:
    return [
        {name: id(parameter) for name, parameter in model.named_parameters()},
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        model.config.to_dict(),
        model.generation_config.to_dict(),
        (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer)),
    ]


def _assert_same(before: list, after: list) -> None:
    for name, value in before[1].items():
        assert torch.equal(value, after[1][name]), name
    assert [x for i, x in enumerate(before) if i != 1] == [x for i, x in enumerate(after) if i != 1]


def test_model_and_tokenizer_are_left_as_they_were(data):
    model, tokenizer = byte_model(), text_tokenizer()
    model.model.layers[1].train()
    model.config.tie_word_embeddings = True  # which the weights of this model are not
    before = _state(model, tokenizer)
    assert tokenizer.pad_token is None
    run_task(model, tokenizer, "piqa", limit=2)
    _assert_same(before, _state(model, tokenizer))


@pytest.fixture
def mine():
    """Random states and a log level that lm_eval would not have left."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.INFO)
    with torch.random.fork_rng():
        for seed in (random.seed, numpy.random.seed, torch.manual_seed):
            seed(4321)
        yield
    logger.setLevel(level)


def _random_states() -> list:
    return [random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_the_global_random_generators_go_on_where_they_were(data, mine, model, tokenizer):
    before = _random_states()
    run_task(model, tokenizer, "hellaswag", limit=1)
    assert _random_states() == before


def _surroundings() -> list:
    import datasets
    import lm_eval.api.metrics
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface

    bars = (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface)
    return [
        *(module.tqdm for module in bars),
        lm_eval.api.metrics.bootstrap_stderr,
        logging.getLogger("lm_eval").level,
        datasets.are_progress_bars_disabled(),
    ]


def _cancel_at(fraction: float):
    def progress(done: float, message: str) -> None:
        if done >= fraction:
            raise Cancelled

    return progress


@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_progress_may_cancel_and_everything_is_as_it_was(data, mine, tokenizer, fraction):
    model = byte_model().train()
    before, around, states = _state(model, tokenizer), _surroundings(), _random_states()
    with pytest.raises(Cancelled):
        run_task(model, tokenizer, "piqa", batch_size=1, progress=_cancel_at(fraction))
    _assert_same(before, _state(model, tokenizer))
    assert _surroundings() == around
    assert _random_states() == states


def test_a_model_that_fails_is_left_as_it_was(data, mine, tokenizer, monkeypatch):
    model = byte_model()
    before, around = _state(model, tokenizer), _surroundings()
    with monkeypatch.context() as patch:
        patch.setattr(type(model.lm_head), "forward", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_task(model, tokenizer, "piqa")
    _assert_same(before, _state(model, tokenizer))
    assert _surroundings() == around


def test_progress_is_called_at_every_forward_pass_and_never_goes_back(data, model, tokenizer):
    said, passes = [], []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(len(said)))
    run_task(model, tokenizer, "arc_easy", batch_size=2, progress=lambda *step: said.append(step))
    handle.remove()
    fractions = [fraction for fraction, _ in said]
    assert len(passes) == 11  # 21 answers
    assert all(later > earlier for earlier, later in pairwise(passes))
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert any("of 21 requests" in message for _, message in said)


def test_it_works_in_another_thread(data, model, tokenizer):
    found = []
    task = threading.Thread(target=lambda: found.append(run_task(model, tokenizer, "piqa")))
    task.start()
    task.join()
    assert found == [run_task(model, tokenizer, "piqa")]


def test_nothing_is_printed_logged_or_written(
    data, mine, model, tokenizer, capfd, caplog, monkeypatch, tmp_path
):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    run_task(model, tokenizer, "hellaswag")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
    assert not (tmp_path / "datasets").exists()


def test_the_batch_size_does_not_change_the_result(data, model, tokenizer):
    results = [run_task(model, tokenizer, "boolq", batch_size=size) for size in (1, 8)]
    assert results[0] == results[1]


def test_a_limit_takes_the_first_rows_and_says_so(data, model, tokenizer):
    result = run_task(model, tokenizer, "openbookqa", limit=2)
    assert (result.samples, result.total, result.limited) == (2, 500, True)
    assert result.rows == "2 of 500 rows"
    first = write_rows(data, {"openbookqa": ROWS["openbookqa"][:2]})
    assert first == data
    assert run_task(model, tokenizer, "openbookqa").metrics == result.metrics


def test_one_row_has_no_standard_error(data, model, tokenizer):
    result = run_task(model, tokenizer, "piqa", limit=1)
    assert result.metrics.keys() == {"acc", "acc_norm"}
    assert result.stderrs == {}


def test_a_local_file_that_is_a_part_of_the_task_is_not_called_the_task(data, model, tokenizer):
    result = run_task(model, tokenizer, "winogrande", limit=1000)
    assert result.limited
    assert result.rows == "3 of 1,267 rows"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limit": 0}, "limit in rows of each task is a whole number, at least 1, not 0"),
        ({"limit": -5}, "not -5"),
        ({"num_fewshot": -1}, "at least 0, not -1"),
        ({"batch_size": 0}, "at least 1, not 0"),
    ],
)
def test_wrong_numbers_are_refused(data, model, tokenizer, settings, said):
    with pytest.raises(InputError, match=said):
        run_task(model, tokenizer, "piqa", **settings)


@pytest.mark.parametrize(
    ("tasks", "said"), [((), "at least one of boolq"), (("piqa", "piqa"), "named twice")]
)
def test_no_task_and_one_named_twice_are_refused(tasks, said):
    with pytest.raises(InputError, match=said):
        check_tasks(ZeroShotSpec(tasks))


BAD = [
    ("piqa", {"label": 2}, "'label' has to be a whole number from 0 to 1"),
    ("piqa", {"label": "x"}, "'label'"),
    ("piqa", {"sol1": " "}, "'sol1' has to be text"),
    ("piqa", {"goal": 3}, "'goal'"),
    ("piqa", {"goal": "\ud800"}, "'goal'"),
    ("boolq", {"answer": "perhaps"}, "'answer'"),
    ("hellaswag", {"label": 4}, "'label' has to be a whole number from 0 to 3"),
    ("hellaswag", {"endings": ["one"]}, "'endings' has to be a list of at least two texts"),
    ("winogrande", {"sentence": "no gap"}, "'sentence' has to be text with a gap"),
    ("winogrande", {"answer": 1}, "'answer'"),
    ("arc_easy", {"answerKey": "Z"}, "'answerKey' has to be one of the labels A, B, C"),
    ("arc_challenge", {"choices": ["a", "b"]}, "'choices'"),
    ("openbookqa", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "'choices.label'"),
    ("openbookqa", {"question_stem": None}, "'question_stem'"),
]


@pytest.mark.parametrize(("task", "change", "said"), BAD)
def test_a_row_that_cannot_be_used_is_named_by_file_line_and_field(data, task, change, said):
    write_rows(data, {task: [ROWS[task][0], ROWS[task][0] | change]})
    with pytest.raises(InputError) as error:
        read_rows(task)
    assert f"Line 2 of {data / 'tasks' / task}.jsonl" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("task", SEVEN)
def test_a_row_without_one_of_its_fields_is_refused(data, task):
    for field in KNOWN[task].fields:
        row = {name: value for name, value in ROWS[task][0].items() if name != field}
        write_rows(data, {task: [row]})
        with pytest.raises(InputError, match=f"has no field '{field}'"):
            read_rows(task)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"[1]\n", "Line 1 .* is not a JSON object with the fields goal, sol1"),
        (b"{'goal'\n", "is not a JSON object"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_rows_is_refused(data, content, said):
    (data / "tasks" / "piqa.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_rows("piqa")


def test_without_rows_and_hub_the_sentence_says_what_was_tried(
    data, model, tokenizer, no_hub, monkeypatch
):
    (data / "tasks" / "piqa.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no tasks/piqa.jsonl, and the hub gave nothing"):
        run_task(model, tokenizer, "piqa")
    monkeypatch.delenv("BIPCORE_DATA")
    with pytest.raises(InputError, match="BIPCORE_DATA is not set, and the hub"):
        run_task(model, tokenizer, "piqa")


@pytest.fixture
def prompts(monkeypatch):
    """Collects the prompt of every request, scored without the model."""
    from bipcore.evaluation.harness import Scorer

    seen = []

    def score(scorer, requests, disable_tqdm=False):
        seen.extend(request.args[0] for request in requests)
        return [(0.0, False)] * len(requests)

    monkeypatch.setattr(Scorer, "loglikelihood", score)
    return seen


@pytest.mark.parametrize(("task", "field"), [("piqa", "goal"), ("arc_easy", "question")])
def test_examples_are_other_rows_of_the_file(data, model, tokenizer, prompts, task, field):
    result = run_task(model, tokenizer, task, num_fewshot=3)
    assert result.num_fewshot == 3
    assert all(prompt.count("Question: ") == 4 for prompt in prompts)
    for row in ROWS[task]:
        own = [p for p in prompts if p.endswith(f"Question: {row[field]}\nAnswer:")]
        assert own
        assert all(prompt.count(row[field]) == 1 for prompt in own)


def test_more_examples_than_other_rows_are_refused(data, model, tokenizer):
    with pytest.raises(InputError, match="which has 4; ask for fewer"):
        run_task(model, tokenizer, "piqa", num_fewshot=4)


def test_an_answer_longer_than_the_model_is_refused_in_a_sentence(data, model, tokenizer):
    write_rows(data, {"piqa": [ROWS["piqa"][0] | {"sol1": "long " * 40}]})
    with pytest.raises(InputError, match="has 201 tokens, but the model has only 128 positions"):
        run_task(model, tokenizer, "piqa")


def test_a_prompt_longer_than_the_model_is_cut_on_the_left(data, model, tokenizer):
    rows = [row | {"passage": "words " * 60 + row["passage"]} for row in ROWS["boolq"]]
    write_rows(data, {"boolq": rows})
    cut = [row | {"passage": row["passage"][-200:]} for row in rows]
    long = run_task(model, tokenizer, "boolq")
    write_rows(data, {"boolq": cut})
    assert run_task(model, tokenizer, "boolq").metrics == long.metrics


def test_a_name_that_lm_eval_does_not_know_is_refused_with_what_was_meant(model, tokenizer):
    with pytest.raises(InputError) as error:
        run_task(model, tokenizer, "arc_eazy")
    assert "There is no task 'arc_eazy'; there are boolq, piqa" in str(error.value)
    assert "Did you mean arc_easy" in str(error.value)


@pytest.mark.parametrize("name", ["acc", "mmlu_", "exact_match", " ", "x" * 5000])
def test_a_word_that_names_no_task_is_refused_without_lm_evals_own_list(
    model, tokenizer, monkeypatch, name
):
    monkeypatch.setattr("bipcore.evaluation.harness.task_manager", None)
    with pytest.raises(InputError, match="There is no task"):
        run_task(model, tokenizer, name)


def test_all_that_lm_eval_lists_is_seen_in_its_definitions():
    from lm_eval.tasks import TaskManager

    folder = tasks_folder() / "afrobench" / "naijarc"
    listed = TaskManager(include_path=str(folder), include_defaults=False).task_index
    assert len(listed) > 5
    assert set(listed) <= defined_names()


def test_a_token_without_an_embedding_is_named(data, tokenizer):
    model = tiny_model("llama")
    with pytest.raises(
        InputError, match=r"Token id \d+ \(.*\) is beyond the model's vocabulary of 97"
    ):
        run_task(model, tokenizer, "piqa")


@pytest.fixture
def others(tmp_path, monkeypatch):
    """lm_eval as if its own tasks were two of these, a group and a tag, and the hub there."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "own"
    folder.mkdir()
    for task in ("piqa", "openbookqa"):
        _definition(folder, task)
        file = folder / f"{task}.yaml"
        text = yaml.safe_load(file.read_text()) | {"task": f"own_{task}", "tag": "own_tag"}
        if task == "piqa":
            mean = {"aggregation": "mean", "higher_is_better": True}
            text["metric_list"] = [{"metric": "acc", **mean}, {"metric": "f1"}]
        file.write_text(yaml.safe_dump(text))
    weighted = [{"metric": "acc", "weight_by_size": True}]
    members = ["own_piqa", "own_openbookqa"]
    for name, more in {"own_group": {"aggregate_metric_list": weighted}, "bare_group": {}}.items():
        group = {"group": name, "task": members} | more
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr("bipcore.data.tasks.tasks_folder", lambda: folder)
    monkeypatch.setattr("bipcore.evaluation.harness.task_manager", lambda: manager)
    monkeypatch.setattr("bipcore.hub._unreachable", lambda: None)


def test_a_metric_that_would_have_to_be_bootstrapped_has_no_standard_error(
    others, model, tokenizer, capfd
):
    result = run_task(model, tokenizer, "own_piqa")
    assert result.metrics.keys() == {"acc", "f1"}
    assert result.stderrs.keys() == {"acc"}
    assert (result.samples, result.total, result.source) == (4, 4, "hub")
    assert not result.limited
    assert capfd.readouterr() == ("", "")


def test_a_group_is_measured_as_one(others, model, tokenizer):
    parts = [run_task(model, tokenizer, task) for task in ("own_piqa", "own_openbookqa")]
    result = run_task(model, tokenizer, "own_group")
    right = sum(part.samples * part.metrics["acc"] for part in parts)
    assert result.metrics["acc"] == pytest.approx(right / 10)
    assert result.samples == 10


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("own_tag", "stands for several tasks; name them one by one: own_openbookqa, own_piqa"),
        ("bare_group", "has no figure of its own; name its tasks: own_piqa, own_openbookqa"),
        ("own_piq", "Did you mean own_piqa"),
    ],
)
def test_names_without_a_figure_are_refused(others, model, tokenizer, task, said):
    with pytest.raises(InputError, match=said):
        run_task(model, tokenizer, task)


def test_another_filter_than_the_plain_one_stays_in_the_name():
    from bipcore.evaluation.harness import _found

    of_task = {"em,none": 0.5, "em,strict": 0.25, "em_stderr,strict": 0.1, "em_stderr,none": "N/A"}
    counts = {"t": {"original": 4, "effective": 2}}
    said = {"results": {"t": {"alias": "t"} | of_task}, "n-samples": counts}
    found = _found("t", said | {"n-shot": {"t": 5}, "versions": {"t": 3.0}})
    assert found.metrics == {"em": 0.5, "em,strict": 0.25}
    assert found.stderrs == {"em,strict": 0.1}
    assert (found.samples, found.total, found.num_fewshot, found.version) == (2, 4, 5, "3.0")


def test_the_score_is_acc_norm_where_there_is_one():
    both = TaskResult("piqa", {"acc": 0.2, "acc_norm": 0.4}, samples=4, total=8)
    one, other = TaskResult("boolq", {"acc": 0.9}), TaskResult("x", {"em": 0.5})
    assert [r.score for r in (both, one, other)] == [0.4, 0.9, 0.5]
    assert average([both, one]) == pytest.approx(65.0)
    assert TaskResult.from_dict(json.loads(json.dumps(both.to_dict()))) == both
    with pytest.raises(InputError):
        average([])


def test_the_identity_of_a_result_counts_rows_and_settings(data):
    made = task_identity("piqa")
    assert made == task_identity("piqa", num_fewshot=0, limit=None)
    others = [task_identity("boolq"), task_identity("piqa", limit=2)]
    others.append(task_identity("piqa", num_fewshot=1))
    write_rows(data, {"piqa": ROWS["piqa"][:3]})
    others.append(task_identity("piqa"))
    (data / "tasks" / "piqa.jsonl").unlink()
    others.append(task_identity("piqa"))
    assert others[-1]["data"] == "hub"
    assert len({json.dumps(one) for one in (made, *others)}) == 6


def test_the_shares_of_tasks_on_one_bar_are_by_their_answers(data):
    parts = shares(ZeroShotSpec(("piqa", "openbookqa"), limit=3))
    assert parts == [(0.0, pytest.approx(1 / 3)), (pytest.approx(1 / 3), 1.0)]


def test_lm_eval_is_imported_only_where_something_is_measured():
    for path in CORE:
        package = path.relative_to(ROOT).parts[:-1]
        top = [node for node in ast.parse(path.read_text()).body if not isinstance(node, _DEFS)]
        names = imports_of("\n".join(map(ast.unparse, top)), package)
        roots = {name.split(".")[0] for name in names}
        if path.name != "harness.py":
            assert not roots & {"lm_eval", "datasets"}, path
            assert "bipcore.evaluation.harness" not in names, path


def test_the_demo_model_is_measured_on_real_rows(demo, data_folder, monkeypatch):
    monkeypatch.setenv("BIPCORE_DATA", str(data_folder))
    result = run_task(*demo, "openbookqa", limit=3)
    assert result.rows == "3 of 500 rows"
    assert set(result.metrics) == {"acc", "acc_norm"}


def test_the_registry_is_the_seven():
    assert tuple(KNOWN) == SEVEN
    for known in KNOWN.values():
        assert (tasks_folder() / known.yaml).is_file()
