"""Command-line options that become specs, each said once and shared by the commands."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .errors import InputError
from .specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec


def _option(kind: Any, default: Any, text: str, flag: str | None = None) -> tuple:
    names = (flag,) if flag else ()
    return Annotated[kind, typer.Option(*names, help=text, show_default=True)], default


_MODEL = {
    "model": (
        Annotated[str, typer.Argument(help="demo, a model folder, or a hub id (owner/name).")],
        inspect.Parameter.empty,
    ),
    "device": _option(str, "auto", "auto, cpu, cuda, cuda:1, ..."),
    "dtype": _option(str, "auto", "auto, float32, bfloat16 or float16."),
}
_SCORE = _MODEL | {
    "criterion": _option(str, "llm-bip", "How heads and channels are scored."),
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
    "allocation": _option(str, "uniform", "uniform or paper."),
    "protect_first": _option(int, 0, "Leave the first so many blocks whole."),
    "protect_last": _option(int, 0, "Leave the last so many blocks whole."),
    "round_to": _option(int, 1, "Round FFN widths to a multiple of this."),
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
    if values["sparsity"] is None:
        return None
    return PlanSpec(**{name: values[name] for name in _PLAN})


def _evaluation(values: dict) -> EvaluationSpec:
    if values["max_tokens"] < 0:
        raise InputError("The number of test tokens is at least 0 (0: all of them).")
    return EvaluationSpec(values["text"], values["window"], values["max_tokens"] or None)


_GROUPS: dict[str, tuple[dict, Callable[[dict], Any]]] = {
    "model": (_MODEL, _model),
    "score": (_SCORE, _score),
    "plan": (_PLAN, _plan),
    "maybe_plan": (_MAYBE_PLAN, _plan),
    "evaluation": (_EVALUATION, _evaluation),
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
            specs = {target: _GROUPS[group][1](values) for group, target in targets.items()}
            function(**specs, **{name: values[name] for name in own})

        del command.__wrapped__
        command.__signature__ = inspect.Signature([*parameters, *own.values()])
        command.__annotations__ = {p.name: p.annotation for p in (*parameters, *own.values())}
        return command

    return decorate
