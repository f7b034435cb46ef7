"""Command-line options that become specs, made from the settings of the specs' fields."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from ..errors import InputError, short
from ..evaluation.metrics import chosen_metrics
from ..export.formats import AUTO, FORMATS
from ..settings import PRESETS, Setting, find_preset, join_list, parse_list, settings_of
from ..specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from ..studies.points import SweepSpec

ExportFormat = Annotated[
    str,
    typer.Option(
        "--format",
        help=f"How it is written: {', '.join(FORMATS)}, or {AUTO}, the first of them that is a "
        "folder and can hold the plan.",
    ),
]
MOST = 2**31 - 1
"""Of what an option counts that belongs to no spec."""

SaveType = Annotated[
    str,
    typer.Option(
        "--save-dtype",
        help="The type that weights are written in: float32, bfloat16, float16, or auto, that in "
        "which the model is stored.",
    ),
]
Quantize = Annotated[
    str,
    typer.Option(
        "--quantize",
        help="What the weights of a GGUF file are written in: "
        f"{', '.join(name for one in FORMATS.values() for name in one.kinds)}, or {AUTO}, what "
        "--save-dtype says.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Overwrite the file that is named even where bipcore did not write it."
    ),
]
Option = tuple[Any, Any]
"""The annotation that typer reads, and the default."""

PRESET = frozenset(name for preset in PRESETS.values() for name in preset.values)
"""The settings that a preset may say: what the user leaves out comes from it, else the default."""


def _option(kind: Any, default: Any, text: str, flag: str = "") -> Option:
    names = (flag,) if flag else ()
    return Annotated[kind, typer.Option(*names, help=text, show_default=True)], default


def _of_field(each: Setting, default: Any) -> Option:
    """The option of one field: of the default's type, a number where that is None, of a list one
    word with commas between, and nothing where the default is no word."""
    if isinstance(default, tuple):
        return _option(str, join_list(default), each.help, each.flag)
    if default is None:
        return _option(int | None, None, each.help, each.flag)
    if default == "":
        return _option(str | None, None, each.help, each.flag)
    return _option(type(default), default, each.help, each.flag)


def _key(name: str, each: Setting) -> str:
    """What typer hands the value of the field ``name`` over as: its flag, where it has one. But
    what is made of the field "source" of a plan is called "plan" already."""
    flag = each.flag.removeprefix("--").replace("-", "_")
    return name if flag in ("", "plan") else flag


def _options(spec: type) -> dict[str, Option]:
    """The options of a spec's fields, by their `_key`."""
    defaults = {one.name: one.default for one in fields(spec)}
    found = {}
    for name, each in settings_of(spec).items():
        if name in PRESET:
            text = f"{each.help.removesuffix('.')} (default: {defaults[name]})."
            found[name] = _option(type(defaults[name]) | None, None, text, each.flag)
        else:
            found[_key(name, each)] = _of_field(each, defaults[name])
    return found


def _values(spec: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of a spec's fields, by the fields' names; what was not said is left out."""
    defaults = {one.name: one.default for one in fields(spec)}
    found = {}
    for name, each in settings_of(spec).items():
        value = values.get(_key(name, each))
        if value == "" == defaults[name]:
            raise InputError(f"The {each.name} is an empty word; name one, or leave it out.")
        if value is not None:
            is_list = isinstance(defaults[name], tuple)
            found[name] = parse_list(value, str, each.name) if is_list else value
    return found


@dataclass(frozen=True)
class Group:
    """Options that are handed to a command together: as a spec, by ``make`` of their values."""

    options: Mapping[str, Option]
    make: Callable[[dict], Any]


def _model(values: dict) -> ModelSpec:
    return ModelSpec(**_values(ModelSpec, values) | {"name": values["model"]})


def _score(values: dict) -> ScoreSpec:
    calibration = CalibrationSpec(**_values(CalibrationSpec, values))
    options = tuple(_pair(text) for text in values["option"] or ())
    return ScoreSpec(_model(values), calibration, values["criterion"], options)


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"An option of a criterion is name=value, not {short(repr(text))}.")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _plan(values: dict) -> PlanSpec | None:
    spec = PlanSpec(**_values(PlanSpec, values))  # what is wrong in it is said, used or not
    return None if values["sparsity"] is None and not spec.source else spec


def _evaluation(values: dict) -> EvaluationSpec:
    if values["max_tokens"] < 0:
        raise InputError("The number of test tokens is at least 0 (0: all of them).")
    everything = {"max_tokens": None} if values["max_tokens"] == 0 else {}
    spec = EvaluationSpec(**_values(EvaluationSpec, values) | everything)
    chosen_metrics(spec.metrics)  # refuses an unknown one before anything is computed
    return spec


def _sweep(values: dict) -> SweepSpec:
    plan = _values(PlanSpec, {name: values.get(name) for name in _SWEPT_PLAN})
    texts = parse_list(values["texts"], str, "texts")
    return SweepSpec(
        model=_model(values),
        criteria=parse_list(values["criteria"], str, "criteria"),
        sparsities=parse_list(values["sparsities"], float, "sparsities"),
        seeds=parse_list(values["seeds"], int, "seeds"),
        samples=parse_list(values["sizes"], int, "sizes"),
        calibration=CalibrationSpec(**_values(CalibrationSpec, values)),
        plan=PlanSpec(**plan),
        texts=tuple(_evaluation(values | {"text": text}) for text in texts),
        profile=values["profile"],
        presets=parse_list(values["presets"], str, "presets"),
    )


def _list(name: str, text: str) -> Option:
    """An option of a sweep that is a list."""
    return _option(str, join_list(getattr(SweepSpec(), name)), f"{text}, with commas between.")


_MODEL = _options(ModelSpec)
_NAME = {
    "model": (
        Annotated[str, typer.Argument(help=_MODEL.pop("name")[0].__metadata__[0].help)],
        inspect.Parameter.empty,
    )
}
_MODEL = _NAME | _MODEL
_SCORE = _MODEL | {
    "criterion": _options(ScoreSpec)["criterion"],
    "option": _option(
        list[str] | None, None, "An option of the criterion, name=value; may be repeated."
    ),
    **_options(CalibrationSpec),
}
_PRESET_OPTION = _option(
    str | None, None, f"Settings by name: {', '.join(PRESETS)}; other options come first."
)
_PLAN = _options(PlanSpec)
_PLAN = {name: each for name, each in _PLAN.items() if name != "source"} | {
    "preset": _PRESET_OPTION,
    "source": _PLAN["source"],
}
_MAYBE_PLAN = _PLAN | {
    "sparsity": _option(
        float | None, None, "Do it for the model pruned to this sparsity, too (default: not)."
    )
}
_EVALUATION = _options(EvaluationSpec)
_TEST_TEXT = {name: each for name, each in _EVALUATION.items() if name != "metrics"}
_SWEPT_PLAN = {
    name: each for name, each in _PLAN.items() if name not in ("sparsity", "preset", "source")
}
_SWEEP = _MODEL | {
    "criteria": _list("criteria", "Criteria"),
    "sparsities": _list("sparsities", "Shares of the blocks' parameters to remove"),
    "seeds": _list("seeds", "Seeds of the calibration samples, and of random scores"),
    "sizes": _list("samples", "Calibration sizes, in samples"),
    "presets": _list("presets", f"Presets to add as lines of their own ({', '.join(PRESETS)})"),
    "calibration": _SCORE["calibration"],
    "seq_len": _SCORE["seq_len"],
    "text_field": _SCORE["text_field"],
    "calibration_beginning": _SCORE["calibration_beginning"],
    **_SWEPT_PLAN,
    "texts": _option(
        str, "builtin", "Test texts: builtin, wikitext2, ptb, c4, or files, with commas between."
    ),
    "window": _EVALUATION["window"],
    "max_tokens": _EVALUATION["max_tokens"],
    "beginning": _EVALUATION["beginning"],
    "metrics": _EVALUATION["metrics"],
    "profile": _option(bool, False, "Measure latency and peak memory, too.", "--profile"),
}

GROUPS: dict[str, Group] = {
    "model": Group(_MODEL, _model),
    "score": Group(_SCORE, _score),
    "plan": Group(_PLAN, _plan),
    "maybe_plan": Group(_MAYBE_PLAN, _plan),
    "evaluation": Group(_EVALUATION, _evaluation),
    "test_text": Group(_TEST_TEXT, _evaluation),
    "recovery": Group(
        _options(RecoverySpec), lambda values: RecoverySpec(**_values(RecoverySpec, values))
    ),
    "sweep": Group(_SWEEP, _sweep),
    "zero_shot": Group(
        _options(ZeroShotSpec), lambda values: ZeroShotSpec(**_values(ZeroShotSpec, values))
    ),
}


def _with_preset(values: dict) -> dict:
    """``values`` with what the user left out filled in."""
    name = values.get("preset")
    chosen = {each.name: each.default for each in fields(PlanSpec)}
    chosen |= {"criterion": ScoreSpec().criterion}
    chosen |= find_preset(name).values if name is not None else {}
    unsaid = {key: chosen[key] for key, value in values.items() if value is None and key in chosen}
    return values | {k: v for k, v in unsaid.items() if k != "sparsity" and v != ""}


def with_specs(*groups: str) -> Callable[[Callable], Callable]:
    """Replace the function's parameters named in ``groups`` by the options they are made from.

    The decorated function shows typer those options and its own; called, it builds the specs. An
    option that several specs have is one, and goes into each.
    "maybe_plan" is handed over as ``plan``, None without ``--sparsity``.
    """

    def decorate(function: Callable) -> Callable:
        targets = {group: group.removeprefix("maybe_") for group in groups}
        own = {
            name: parameter
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in targets.values()
        }
        options = {name: each for group in groups for name, each in GROUPS[group].options.items()}
        parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=value)
            for name, (kind, value) in options.items()
        ]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            values = _with_preset(values)
            specs = {target: GROUPS[group].make(values) for group, target in targets.items()}
            function(**specs, **{name: values[name] for name in own})

        del command.__wrapped__
        command.__signature__ = inspect.Signature([*parameters, *own.values()])
        command.__annotations__ = {p.name: p.annotation for p in (*parameters, *own.values())}
        return command

    return decorate
