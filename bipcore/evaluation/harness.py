"""lm_eval around a model in memory. Importing this imports lm_eval: do it late.

What lm_eval does to the process is undone: it seeds the global generators, draws bars, logs, and
may start processes to bootstrap. It would put the model in evaluation mode, tie its weights and
give its tokenizer a padding token; here the model is left alone and the tokenizer is a copy.
"""

import contextlib
import copy
import functools
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import lm_eval.api.metrics
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
import numpy
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from torch import Tensor, nn

from ..data.tasks import KNOWN, checked_rows, from_hub, local_file, tasks_folder
from ..errors import InputError, reason_of
from ..models.finite import check_finite
from ..models.running import check_vocabulary, evaluation_mode
from ..models.streaming import device_of
from ..progress import Progress
from ..specs import ZeroShotSpec

_SPLITS = ("training", "validation", "test")
_PLAIN = "none"
_BAR = lm_eval.models.huggingface.tqdm


@dataclass(frozen=True)
class Found:
    """What lm_eval found, by the names of `zero_shot.TaskResult`."""

    metrics: Mapping[str, float]
    stderrs: Mapping[str, float]
    samples: int
    total: int
    num_fewshot: int
    version: str


class Scorer(HFLM):
    """lm_eval's view of a model that is there already.

    ``progress`` is called before every forward pass, with the share of the requests done; it may
    raise, to stop.
    """

    def __init__(self, model: nn.Module, tokenizer, *, batch_size: int, progress: Progress):
        self._ready = False
        self._progress, self._title = progress, ""
        self._done, self._all = 0, 1
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=batch_size,
            softmax_dtype=torch.float32,  # in the model's own, likelihoods have three digits
        )
        self._device = device_of(model.get_input_embeddings())
        self._ready = True

    @property
    def model(self) -> nn.Module | None:
        """The model; while this is set up none, so that nothing is done to it."""
        return self._model if self._ready else None

    def expect(self, title: str, count: int) -> None:
        """Count anew: ``count`` requests of the task ``title`` are to come."""
        self._title, self._done, self._all = title, 0, max(count, 1)

    def _step(self, count: int) -> None:
        message = f"{self._title}: {self._done:,} of {self._all:,} requests"
        self._progress(min(self._done / self._all, 1.0), message)
        self._done += count

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False):
        self.expect(self._title, len(requests))
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests, disable_tqdm: bool = False):
        self.expect(self._title, len(requests))
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs=None):
        longest = max((len(answer) for *_, answer in requests), default=0)
        if longest > self.max_length:
            raise InputError(
                f"An answer of {self._title!r} has {longest} tokens, but the model has only "
                f"{self.max_length} positions; it cannot be measured in this task."
            )
        if override_bs is None:  # requests that differ in the last token alone share a pass
            passes = {tuple(context + answer[:-1]) for _, context, answer in requests}
            self.expect(self._title, len(passes))
        found = super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        check_finite([loss for loss, _ in found], "The likelihood of an answer", self._model)
        return found

    def _model_call(self, inps: Tensor, *args, **named) -> Tensor:
        """Logits (B, T, V) of tokens (B, T)."""
        check_vocabulary(self._model, inps, self.tokenizer)
        self._step(len(inps))
        return super()._model_call(inps, *args, **named)

    def _model_generate(self, context: Tensor, *args, **named) -> Tensor:
        check_vocabulary(self._model, context, self.tokenizer)
        self._step(len(context))
        return super()._model_generate(context, *args, **named)


def measure(model: nn.Module, tokenizer, spec: ZeroShotSpec, progress: Progress) -> Found:
    """What `evaluate` of lm_eval finds for the one task of ``spec``, as `simple_evaluate` calls
    it."""
    (task,) = spec.tasks
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            "The tokenizer has neither a beginning- nor an end-of-text token; lm_eval needs one."
        )
    with _undisturbed(lambda: progress(0.0, f"{task}: writing the prompts")):
        loaded = _load(task, spec.num_fewshot)
        for one in loaded["tasks"].values():
            if one.get_config("num_fewshot") != 0:  # a task that says 0 has none
                one.set_config(key="num_fewshot", value=spec.num_fewshot)
            one.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        scorer = Scorer(model, tokenizer, batch_size=spec.batch_size, progress=progress)
        scorer.expect(task, 1)
        with evaluation_mode(model):
            found = evaluate(scorer, loaded, limit=spec.limit, log_samples=False)
    return _found(task, found)


def _load(task: str, num_fewshot: int) -> dict[str, Any]:
    """The task as `TaskManager.load` gives it; a group comes with all its tasks."""
    if task not in KNOWN:
        loaded = from_hub(task, lambda: _load_other(task))
    elif local_file(task) is None:
        loaded = {"tasks": {task: from_hub(task, lambda: _configured(task, {}))}}
    else:
        loaded = {"tasks": {task: _configured(task, _local(task, num_fewshot))}}
    for one in loaded["tasks"].values():
        if getattr(one, "UNSAFE_CODE", False) or getattr(one, "MULTIMODAL", False):
            raise InputError(
                f"The task {one.task_name!r} runs code that the model writes, or is not text "
                "alone; it cannot be measured here."
            )
    return loaded


@functools.cache
def task_manager() -> TaskManager:
    """lm_eval's list of all its tasks. The first call takes 10 to 20 seconds."""
    return TaskManager()


def _load_other(task: str) -> dict[str, Any]:
    try:
        return task_manager().load([task])
    except ImportError as error:
        raise InputError(
            f"The task {task!r} needs a package that is missing: {reason_of(error)}."
        ) from None


def _configured(task: str, changes: dict[str, Any]) -> lm_eval.api.task.ConfigurableTask:
    """One of the seven by its shipped definition, with ``changes``."""
    config = load_yaml(tasks_folder() / KNOWN[task].yaml) | changes
    config.pop("tag", None)
    return lm_eval.api.task.ConfigurableTask(config=config)


def _local(task: str, num_fewshot: int) -> dict[str, Any]:
    """What makes a definition read the local rows: in memory, nothing is written.

    The only split is the one that is measured, so examples come from it. lm_eval leaves the row
    itself out of its examples where their split is the test split, both None included.
    """
    split = KNOWN[task].split
    rows = datasets.Dataset.from_list(checked_rows(task, num_fewshot))
    parts = datasets.DatasetDict({split: rows})
    return {
        "custom_dataset": lambda **_: parts,
        **{f"{name}_split": split if name == split else None for name in _SPLITS},
        "fewshot_split": split if split == "test" else None,
    }


def _found(task: str, found: Mapping[str, Any]) -> Found:
    """What was found for ``task``, a group perhaps, by plain names; what is no number is left
    out."""
    metrics, stderrs = {}, {}
    for key, value in found["results"][task].items():
        name, comma, filtered = key.partition(",")
        if not comma or isinstance(value, str):
            continue
        target = stderrs if name.endswith("_stderr") else metrics
        name = name.removesuffix("_stderr")
        target[name if filtered == _PLAIN else f"{name},{filtered}"] = float(value)
    if not metrics:
        members = ", ".join(found["group_subtasks"].get(task, ()))
        raise InputError(f"The group {task!r} has no figure of its own; name its tasks: {members}.")
    counts = found["n-samples"]
    counts = [counts[task]] if task in counts else list(counts.values())
    shots = found["n-shot"].get(task, 0)
    return Found(
        metrics=metrics,
        stderrs={name: value for name, value in stderrs.items() if value == value},
        samples=sum(count["effective"] for count in counts),
        total=sum(count["original"] for count in counts),
        num_fewshot=shots if isinstance(shots, int) else 0,
        version=str(found["versions"].get(task)),
    )


@contextlib.contextmanager
def _undisturbed(look: Callable[[], None]) -> Iterator[None]:
    """Within the block lm_eval is quiet, starts no processes and has random states of its own.

    ``look`` is called for every row whose prompt is written. The names that are put into lm_eval's
    modules, its log level and the global random states come back when the block is left.
    """

    def watched(rows=(), **_):
        for row in rows:
            look()
            yield row

    with contextlib.ExitStack() as stack:
        stack.enter_context(_swapped(lm_eval.api.task, "tqdm", watched))
        for module in (lm_eval.api.model, lm_eval.models.huggingface):
            stack.enter_context(_swapped(module, "tqdm", _no_bar))
        # bootstrapping takes minutes in many processes: a metric that needs it has no error
        none = lambda *_, **__: float("nan")  # noqa: E731
        stack.enter_context(_swapped(lm_eval.api.metrics, "bootstrap_stderr", none))
        stack.enter_context(_no_chatter())
        stack.enter_context(_own_randomness())
        yield


def _no_bar(*args, **named):
    return _BAR(*args, **named | {"disable": True})


@contextlib.contextmanager
def _swapped(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Within the block the global generators are seeded as `simple_evaluate` seeds them."""
    python, legacy = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        random.seed(DEFAULT_RANDOM_SEED)
        numpy.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(legacy)
