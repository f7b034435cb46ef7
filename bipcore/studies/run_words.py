"""What an entry of the run store is, in words: by its kind, from its spec, what was said of how it
was made, and its plain data."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any

from ..data.beginnings import NONE, said_of
from ..errors import short
from ..evaluation.metrics import METRICS
from ..evaluation.zero_shot import TaskResult
from ..specs import PERPLEXITY, CalibrationSpec
from ..specs.recovery import LIVE
from .reproduction.spec import RowKey

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """The ``model`` as the user named it, what it was made with, its figures, the main one first,
    and what the model costs (by the names of `points.Point`), each as far as the entry says.
    ``by_text``: of a sweep point the values of each metric by the digests of the texts."""

    model: str = ""
    settings: Data = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    by_text: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


_PLAN = (
    "criterion",
    "sparsity",
    "unit",
    "allocation",
    "protect_first",
    "protect_last",
    "round_to",
    "floor",
    "compensation",
    "propagation",
    "target",
)
_USUAL = {
    "type": ...,
    "unit": ...,
    "realised": ...,
    "allocation": "uniform",
    "protect_first": 0,
    "protect_last": 0,
    "round_to": 1,
    "floor": 0,
    "compensation": "none",
    "propagation": "dense",
    "metric": ...,
    "batch_size": ...,
    "targets": ...,
    "seed": ...,
    "examples": 0,
}
"""What the short words leave out: where it is so, and where it is anything (...)."""

_AT, _PLAIN = "at ", f", {said_of(NONE)}"
_WORDS: Mapping[str, Callable[[Any], str]] = {
    "sparsity": lambda share: f"{_AT}{100 * share:.3g} %",
    "protect_first": lambda count: f"{'first block' if count == 1 else f'first {count}'} protected",
    "protect_last": lambda count: f"{'last block' if count == 1 else f'last {count}'} protected",
    "round_to": lambda to: f"widths by {to}",
    "floor": lambda share: f"floor {share:g}",
    "propagation": lambda kind: f"{kind} propagation",
    "block": lambda number: f"block {number}",
    "head": lambda number: f"head {number}",
    "channel": lambda number: f"channel {number}",
    "window": lambda tokens: f"window {tokens}",
    "tokens": lambda tokens: f"{tokens:,} tokens" if isinstance(tokens, int) else tokens,
    "calibration": lambda text: f"calibrated on {text.removesuffix(_PLAIN)}",
    "training": lambda text: f"trained on {text}",
    "learning_rate": lambda rate: f"rate {rate:g}",
    "epochs": lambda count: f"{count} epochs" if count != 1 else "1 epoch",
    "rank": lambda rank: f"rank {rank}",
    "plan": lambda name: f"plan {name}",
    "rows": lambda rows: f"{rows:,} rows" if isinstance(rows, int) else rows,
    "examples": lambda count: f"{count} examples",
    "steps": lambda count: f"{count} steps",
    "teacher": lambda kind: f"{kind} teacher",
    "step": lambda step: f"stopped at step {step}",
    "context": lambda tokens: f"{tokens} tokens before",
    "limit": lambda limit: f"limit {limit}",
}


def short_words(settings: Data) -> str:
    """Settings in a line; what is as usual is left out."""
    said = []
    for name, value in settings.items():
        if (name, value) == ("state", "pruned") and "criterion" in settings:
            continue  # its plan says so
        usual = _USUAL.get(name, "")
        if usual is not ... and value != usual and value is not None:
            said.append(_WORDS.get(name, str)(value))
    return ", ".join(said).replace(f", {_AT}", f" {_AT}")


def figure_words(name: str, value: float) -> str:
    """A figure with its name: "perplexity 23.61", "KL divergence 0.1234"."""
    metric = METRICS.get(name.partition(", ")[0])
    if metric is None:
        return f"{name} {value:.4g}"
    noun = name.replace(metric.name, metric.noun, 1)
    return f"{noun} {metric.say(value, grouped=True)}"


def _model_of(identity: Any) -> tuple[str, dict]:
    """The name that stands for a model, and its type as a setting."""
    return str(identity["name"]), {"type": identity["dtype"]}


def _options(options: Any) -> dict:
    return {"options": ", ".join(f"{k}={v}" for k, v in options.items())} if options else {}


def _calibration(said: Data | None) -> dict:
    if said is None:
        return {}
    names = [one.name for one in fields(CalibrationSpec) if one.name in said]
    return {"calibration": str(CalibrationSpec(**{name: said[name] for name in names}))}


def _text(said: Data) -> dict:
    """A test text, as its identity has it."""
    most = said["max_tokens"]
    beginning = {"beginning": said["beginning"]} if "beginning" in said else {}
    what = {"text": said["text"], "window": said["window"]}
    return what | {"tokens": "all tokens" if most is None else most} | beginning


def _planned(spec: Data) -> dict:
    """What a plan says of where it comes from."""
    found = {name: spec[name] for name in _PLAN if spec.get(name) is not None}
    found |= _options(spec.get("options"))
    text = spec.get("calibration_text", "none")
    return found | ({} if text == "none" else {"calibration": text})


def _trained(said: Data) -> dict:
    """What a recovery is of."""
    samples = f"{said['source']}, {said['samples']:,} × {said['seq_len']} tokens"
    how = {"objective": said.get("objective", "text"), "train": said.get("train", "lora")}
    how |= {"training": samples, "learning_rate": said["learning_rate"]}
    how |= {"teacher": said["teacher"]} if said.get("teacher", LIVE) != LIVE else {}
    how |= {"rank": said["rank"]} if how["train"] == "lora" else {}
    others = ("epochs", "batch_size", "targets", "seed")
    return how | {name: said[name] for name in others}


def _state(spec: Data, made: Data, text: dict | None = None) -> dict:
    """Which state of the model it is of: dense, pruned or recovered, and how; on which ``text``."""
    if spec.get("plan") is None:
        return {"state": "dense"} | (text or {})
    recovered = spec.get("recovery")
    said: dict = {"state": "recovered" if recovered else "pruned"}
    plan, calibration = made.get("plan"), {}
    if plan is None:
        said["plan"] = str(spec["plan"])[:6]
    else:
        said |= _planned(plan["spec"]) | {"realised": plan["realised"]}
        calibration = {name: said.pop(name) for name in ("calibration",) if name in said}
    return said | (text or {}) | calibration | (_trained(recovered) if recovered else {})


def _scores(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    said = {"criterion": spec["criterion"]} | _options(spec.get("options"))
    said |= {"propagation": "pruned"} if "propagated" in spec else {}
    said |= {"depth": spec["depth"]} if "depth" in spec else {}
    return Said(model, kind | said | _calibration(spec["calibration"]))


def _of_a_pass(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    return Said(model, kind | _calibration(spec["calibration"]) | _options(spec.get("curves")))


def _search(spec: Data, made: Data, data: Data) -> Said:
    return _scores(spec["of"], made, data)


def _evaluation(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    metric = spec.get("metric", PERPLEXITY)
    said = kind | _state(spec, made, _text(spec["evaluation"])) | {"metric": metric}
    figures = {metric: data[metric]} if metric in data else {}
    return Said(model, said, figures, made.get("cost", {}))


def _reconstruction(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    said = kind | _state(spec, made, _text(spec["evaluation"]))
    names = {"accumulated": "mean error", "local": "mean local error"}
    figures = {name: fmean(data[of]) for of, name in names.items() if data.get(of)}
    return Said(model, said, figures, made.get("cost", {}))


def _close_up(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    said = {name: spec[name] for name in ("block", "head", "channel") if name in spec}
    said |= {"text": short(spec["own"], 60)} if "own" in spec else _text(spec["evaluation"])
    silenced = data.get("silenced", {})
    figures = {"rise of the loss": silenced["by_zero"]} if "by_zero" in silenced else {}
    return Said(model, kind | said | _calibration(spec.get("calibration")), figures)


def _task(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    rows = "all rows" if spec["limit"] is None else spec["limit"]
    said = {"task": spec["task"], "rows": rows, "examples": spec["num_fewshot"]}
    figures: dict[str, float] = {}
    if data:
        result = TaskResult.from_dict(data)
        figures = {result.score_name: result.score, **result.metrics}
    return Said(model, kind | said | _state(spec, made), figures, made.get("cost", {}))


def _recovery(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["model"])
    looks = {step["step"]: step for step in data.get("history", ())}
    chosen = looks.get(data.get("chosen"), {})
    names = {"validation_kl": "held-out KL", "validation": "held-out loss"}
    figures = {said: chosen[of] for of, said in names.items() if chosen.get(of) is not None}
    costs = made.get("cost", {})
    said = {name: value for name, value in _state(spec, made).items() if name != "state"}
    return Said(model, kind | said, figures, costs, data.get("seconds"))


def _checkpoint(spec: Data, made: Data, data: Data) -> Said:
    model, kind = _model_of(spec["of"]["model"])
    return Said(model, kind | _state(spec["of"], made) | {"step": spec["step"]})


def _point(spec: Data, made: Data, data: Data) -> Said:
    scores = spec["scores"] if spec["plan"] is not None else spec
    model, kind = _model_of(scores["model"])
    texts = made.get("texts", {})
    on = _text(next(iter(texts.values()))) if len(texts) == 1 else {}
    said: dict = {"state": "dense", **on}
    if spec["plan"] is not None:
        said = {"state": "pruned", "criterion": scores["criterion"]}
        said |= _planned(spec["plan"] | {"options": scores["options"]}) | on
        said |= _calibration(scores["calibration"] or spec["plan"]["compensation_calibration"])
        if made.get("label", said["criterion"]) != said["criterion"]:
            said["preset"] = made["label"]
    if len(texts) > 1:
        said["texts"] = " and ".join(f"{t['text']}@{t['window']}" for t in texts.values())
    names = ("parameters", "macs", "seq_len", "latency", "peak_memory")
    costs = {name: data[name] for name in names if data.get(name) is not None}
    measured = {PERPLEXITY: data.get("perplexity", {}), **data.get("more", {})}
    figures = _of_texts(measured, texts)
    return Said(model, kind | said, figures, costs, data.get("seconds"), measured)


def _of_texts(measured: Data, texts: Data) -> dict[str, float]:
    """The figures of a point by metric, and by text where there are several."""
    found = {}
    for metric, values in measured.items():
        for key, value in values.items():
            name = f"{texts[key]['text']}@{texts[key]['window']}" if key in texts else key[:6]
            found[metric if len(values) == 1 else f"{metric}, {name}"] = value
    return found


def _row(spec: Data, made: Data, data: Data) -> Said:
    settings = spec["settings"]
    model, kind = _model_of(settings["model"])
    said = {"of": spec["reproduction"], "row": str(RowKey(**spec["row"]))}
    said |= {"limit": settings["limit"]} if settings["limit"] is not None else {}
    figures = {name: cell["value"] for name, cell in data.get("cells", {}).items()}
    return Said(model, kind | said | _calibration(settings["calibration"]), figures)


def _edited(spec: Data, made: Data, data: Data) -> Said:
    plan = json.loads(spec["plan"])
    said = _planned(plan["spec"]) | {"realised": plan["realised"]["block"]}
    return Said(str(plan["spec"].get("model", "")), said)


def _name(spec: Data, made: Data, data: Data) -> Said:
    return Said("", {"name": spec["name"]})


def _times(spec: Data, made: Data, data: Data) -> Said:
    said = {name: value for name, value in spec.items() if name not in ("shape", "dtype")}
    return Said(str(made.get("model", "")), said | {"type": spec["dtype"]})


def _demo(spec: Data, made: Data, data: Data) -> Said:
    return Said("demo", {"from": spec["gguf"]})


def _hash(spec: Data, made: Data, data: Data) -> Said:
    return Said("", {"file": spec["file"][0]})


@dataclass(frozen=True)
class Words:
    """What entries of one kind are called, and how one is described."""

    title: str
    describe: Callable[[Data, Data, Data], Said]


WORDS: Mapping[str, Words] = {
    "evaluations": Words("Evaluation", _evaluation),
    "points": Words("Sweep point", _point),
    "recoveries": Words("Recovery", _recovery),
    "zero-shot": Words("Zero-shot task", _task),
    "reconstruction": Words("Reconstruction", _reconstruction),
    "head-close-ups": Words("Close-up of a head", _close_up),
    "channel-close-ups": Words("Close-up of a channel", _close_up),
    "reproductions": Words("Paper row", _row),
    "scores": Words("Scores", _scores),
    "plans": Words("Edited plan", _edited),
    "plan-names": Words("Name of a plan", _name),
    "curves": Words("Curves", _of_a_pass),
    "statistics": Words("Statistics", _of_a_pass),
    "second-moments": Words("Second moments", _of_a_pass),
    "teachers": Words("Stored teacher", _of_a_pass),
    "steps": Words("Search", _search),
    "checkpoints": Words("Stopped fine-tuning", _checkpoint),
    "decode-times": Words("Decoding times", _times),
    "models": Words("Demo model", _demo),
    "hashes": Words("Checksum", _hash),
}
"""By the names of the kinds, those that a user asked for first."""
