"""Command-line options that become specs, each said once and shared by the commands."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..settings import PRESETS, find_preset, join_list, parse_list
from ..specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from ..studies.sweep import SweepSpec


def _option(kind: Any, default: Any, text: str, flag: str | None = None) -> tuple:
    names = (flag,) if flag else ()
    return Annotated[kind, typer.Option(*names, help=text, show_default=True)], default


_DEFAULTS = asdict(PlanSpec()) | {"criterion": ScoreSpec().criterion}


def _preset(name: str, kind: Any, text: str) -> tuple:
    """An option that a preset can set: what is not said comes from the preset, else the default."""
    return _option(kind | None, None, f"{text} (default: {_DEFAULTS[name]}).")


_MODEL = {
    "model": (
        Annotated[str, typer.Argument(help="demo, a model folder, or a hub id (owner/name).")],
        inspect.Parameter.empty,
    ),
    "device": _option(str, "auto", "auto, cpu, cuda, cuda:1, ..."),
    "dtype": _option(str, "auto", "auto, float32, bfloat16 or float16."),
}
_SCORE = _MODEL | {
    "criterion": _preset("criterion", str, "How heads and channels are scored"),
    "option": _option(
        list[str] | None, None, "An option of the criterion, name=value; may be repeated."
    ),
    "calibration": _option(
        str, "builtin", "builtin, wikitext2, ptb, c4, or a .txt or .jsonl file."
    ),
    "samples": _option(int, 32, "Calibration samples."),
    "seq_len": _option(int, 256, "Tokens in a calibration sample."),
    "seed": _option(int, 0, "Seed that draws the calibration samples."),
}
_PLAN = {
    "sparsity": _option(float, 0.2, "Share of the blocks' parameters to remove, 0 to below 1."),
    "unit": _option(str, "auto", "auto, head, query-head, kv-group, or none."),
    "allocation": _preset("allocation", str, "auto, uniform, paper, global, or sublayer"),
    "protect_first": _preset("protect_first", int, "Leave the first so many blocks whole"),
    "protect_last": _preset("protect_last", int, "Leave the last so many blocks whole"),
    "round_to": _option(int, 1, "Round FFN widths to a multiple of this."),
    "floor": _option(
        float, 0.0, "With global allocation: the share of its units that each sublayer keeps."
    ),
    "compensation": _preset("compensation", str, "auto, none, bias, or least-squares"),
    "propagation": _preset(
        "propagation", str, "dense, or pruned: score each block on the pruned ones before it"
    ),
    "preset": _option(
        str | None, None, f"Settings by name: {', '.join(PRESETS)}; other options come first."
    ),
    "source": _option(
        str, "", "A plan file (see the command plan) instead of choosing one.", "--plan"
    ),
}
_MAYBE_PLAN = _PLAN | {
    "sparsity": _option(
        float | None, None, "Do it for the model pruned to this sparsity, too (default: not)."
    )
}
_EVALUATION = {
    "text": _option(str, "builtin", "Test text: builtin, wikitext2, ptb, c4, or a file."),
    "window": _option(int, 512, "Perplexity window, in tokens."),
    "max_tokens": _option(int, 4096, "Use the first so many tokens; 0 for all."),
}
_TRAINING = RecoverySpec()
_RECOVERY = {
    "train_text": _option(
        str, _TRAINING.source, "Training text: builtin, wikitext2, ptb, c4, or a file."
    ),
    "train_samples": _option(int, _TRAINING.samples, "Training samples."),
    "train_seq_len": _option(int, _TRAINING.seq_len, "Tokens in a training sample."),
    "train_seed": _option(int, _TRAINING.seed, "Seed of the training samples and the adapter."),
    "rank": _option(int, _TRAINING.rank, "Rank of LoRA's matrices."),
    "alpha": _option(float, _TRAINING.alpha, "LoRA's alpha: what it adds is times alpha / rank."),
    "dropout": _option(float, _TRAINING.dropout, "Dropout of what enters LoRA's matrices."),
    "targets": _option(
        str, "all", "all, attention, ffn, or names of linear layers, with commas between."
    ),
    "learning_rate": _option(float, _TRAINING.learning_rate, "The highest learning rate."),
    "warmup": _option(float, _TRAINING.warmup, "Share of the steps in which it rises."),
    "weight_decay": _option(float, _TRAINING.weight_decay, "AdamW's weight decay."),
    "batch_size": _option(
        int, _TRAINING.batch_size, "Samples in an optimiser step, over all its forward passes."
    ),
    "epochs": _option(int, _TRAINING.epochs, "How often each sample is seen."),
    "validation": _option(int, _TRAINING.validation, "More samples, held out to watch the loss."),
    "validate_every": _option(int, _TRAINING.validate_every, "Steps between two looks at them."),
    "patience": _option(
        int,
        _TRAINING.patience,
        "Stop after so many looks without improvement, and keep the best; 0: never.",
    ),
}
_TASKS = ZeroShotSpec()
_ZERO_SHOT = {
    "tasks": _option(
        str, join_list(_TASKS.tasks), "Tasks by their names in lm_eval, with commas between."
    ),
    "limit": _option(
        int | None, None, "Measure the first so many rows of each task (default: all)."
    ),
    "num_fewshot": _option(int, _TASKS.num_fewshot, "Solved examples in every prompt."),
    "batch_size": _option(
        int, _TASKS.batch_size, "Requests in a forward pass; changes speed, not results."
    ),
}
_SWEPT_PLAN = {
    name: option for name, option in _PLAN.items() if name not in ("sparsity", "preset", "source")
}


def _list(name: str, text: str) -> tuple:
    """An option of a sweep that is a list."""
    return _option(str, join_list(getattr(SweepSpec(), name)), f"{text}, with commas between.")


_SWEEP = _MODEL | {
    "criteria": _list("criteria", "Criteria"),
    "sparsities": _list("sparsities", "Shares of the blocks' parameters to remove"),
    "seeds": _list("seeds", "Seeds of the calibration samples, and of random scores"),
    "sizes": _list("samples", "Calibration sizes, in samples"),
    "presets": _list("presets", f"Presets to add as lines of their own ({', '.join(PRESETS)})"),
    "calibration": _SCORE["calibration"],
    "seq_len": _SCORE["seq_len"],
    **_SWEPT_PLAN,
    "texts": _option(
        str, "builtin", "Test texts: builtin, wikitext2, ptb, c4, or files, with commas between."
    ),
    "window": _EVALUATION["window"],
    "max_tokens": _EVALUATION["max_tokens"],
    "profile": _option(bool, False, "Measure latency and peak memory, too.", "--profile"),
}


def _with_preset(values: dict) -> dict:
    """``values`` with what the user left out filled in."""
    name = values.get("preset")
    chosen = _DEFAULTS | dict(find_preset(name).values if name else {})
    unsaid = {key: chosen[key] for key, value in values.items() if value is None and key in chosen}
    return values | {k: v for k, v in unsaid.items() if k != "sparsity"}


def _model(values: dict) -> ModelSpec:
    return ModelSpec(values["model"], values["device"], values["dtype"])


def _score(values: dict) -> ScoreSpec:
    calibration = CalibrationSpec(
        values["calibration"], values["samples"], values["seq_len"], values["seed"]
    )
    options = tuple(_pair(text) for text in values["option"] or ())
    return ScoreSpec(_model(values), calibration, values["criterion"], options)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"An option of a criterion is name=value, not {text!r}.")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _plan(values: dict) -> PlanSpec | None:
    if values["sparsity"] is None and not values["source"]:
        return None
    names = [name for name in _PLAN if name != "preset" and values[name] is not None]
    return PlanSpec(**{name: values[name] for name in names})


def _evaluation(values: dict) -> EvaluationSpec:
    if values["max_tokens"] < 0:
        raise InputError("The number of test tokens is at least 0 (0: all of them).")
    return EvaluationSpec(values["text"], values["window"], values["max_tokens"] or None)


def _recovery(values: dict) -> RecoverySpec:
    renamed = {"train_text": "source"}
    fields = {renamed.get(name, name.removeprefix("train_")): values[name] for name in _RECOVERY}
    return RecoverySpec(**fields | {"targets": parse_list(values["targets"], str, "targets")})


def _zero_shot(values: dict) -> ZeroShotSpec:
    others = {name: values[name] for name in _ZERO_SHOT if name != "tasks"}
    return ZeroShotSpec(parse_list(values["tasks"], str, "tasks"), **others)


def _sweep(values: dict) -> SweepSpec:
    texts = parse_list(values["texts"], str, "texts")
    return SweepSpec(
        model=_model(values),
        criteria=parse_list(values["criteria"], str, "criteria"),
        sparsities=parse_list(values["sparsities"], float, "sparsities"),
        seeds=parse_list(values["seeds"], int, "seeds"),
        samples=parse_list(values["sizes"], int, "sizes"),
        calibration=CalibrationSpec(values["calibration"], seq_len=values["seq_len"]),
        plan=PlanSpec(**{name: values[name] for name in _SWEPT_PLAN}),
        texts=tuple(_evaluation(values | {"text": text}) for text in texts),
        profile=values["profile"],
        presets=parse_list(values["presets"], str, "presets"),
    )


_GROUPS: dict[str, tuple[dict, Callable[[dict], Any]]] = {
    "model": (_MODEL, _model),
    "score": (_SCORE, _score),
    "plan": (_PLAN, _plan),
    "maybe_plan": (_MAYBE_PLAN, _plan),
    "evaluation": (_EVALUATION, _evaluation),
    "recovery": (_RECOVERY, _recovery),
    "sweep": (_SWEEP, _sweep),
    "zero_shot": (_ZERO_SHOT, _zero_shot),
}


def with_specs(*groups: str) -> Callable[[Callable], Callable]:
    """Replace the function's parameters named in ``groups`` by the options they are made from.

    The decorated function shows typer those options and its own; called, it builds the specs.
    "maybe_plan" is handed over as ``plan``, None without ``--sparsity``.
    """

    def decorate(function: Callable) -> Callable:
        targets = {group: group.removeprefix("maybe_") for group in groups}
        own = {
            name: parameter
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in targets.values()
        }
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=value)
            for group in groups
            for name, (kind, value) in _GROUPS[group][0].items()
        ]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            values = _with_preset(values)
            specs = {target: _GROUPS[group][1](values) for group, target in targets.items()}
            function(**specs, **{name: values[name] for name in own})

        del command.__wrapped__
        command.__signature__ = inspect.Signature([*parameters, *own.values()])
        command.__annotations__ = {p.name: p.annotation for p in (*parameters, *own.values())}
        return command

    return decorate
