"""The command ``diff``: where a pruned model differs from the dense one, token by token."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..evaluation.depth import Depth
from ..specs import EvaluationSpec, PlanSpec, ScoreSpec
from . import console
from .console import plan_facts
from .fitting import fitting
from .options import MOST, Json, with_specs
from .recover import RecoveryName, chosen_states

if TYPE_CHECKING:
    from ..evaluation.differences import Differences

Worst = Annotated[
    int, typer.Option(help="How many of the tokens with the largest divergence.", max=MOST)
]
Passages = Annotated[
    int,
    typer.Option(
        help="How many of the passages, of 64 tokens each, with the largest divergence.", max=MOST
    ),
]
ByDepth = Annotated[
    bool,
    typer.Option("--depth", help="Also compare them after every block, on the first 256 tokens."),
]
_SHOWN = 24  # characters of the text before a token in the table
_LENGTH = 64  # tokens of a passage


@with_specs("score", "maybe_plan", "test_text")
def diff_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    test_text: EvaluationSpec,
    recovery: RecoveryName = None,
    worst: Worst = 10,
    passages: Passages = 0,
    depth: ByDepth = False,
    json: Json = False,
) -> None:
    """Where a pruned model's predictions depart from the dense model's, token by token of a text.

    With --sparsity or --plan of the pruned model, with --recovery of the recovered one. At every
    token the divergence is KL(dense || model) of the next token's distributions, in nats; the last
    window of the text may be shorter than --window.
    """
    from ..evaluation.differences import rows

    _check_counts(tokens=worst, passages=passages)
    if plan is None and recovery is None:
        raise InputError(
            "Say which model to compare with the dense one: --sparsity, --plan or --recovery."
        )
    with console.progress_bar() as progress:
        counted = replace(test_text, metrics=("kl",))  # it takes as much
        pipeline = fitting(progress, "evaluate", score, plan, text=counted)
        chosen, recovered = chosen_states(pipeline, score, plan, recovery)
        found = pipeline.differences(score.model, test_text, chosen, recovered)
        by_block = pipeline.depth(score.model, test_text, chosen, recovered) if depth else None
        _, tokenizer = pipeline.model(score.model)
    listed = list(rows(found, tokenizer, worst))
    facts = _means(found) | {"tokens": len(found.tokens)}
    facts["compared"] = "recovered" if recovered else "pruned"
    parts = list(_passages(found, tokenizer, passages))
    if json:
        about = {"spec": asdict(score), "evaluation": test_text.facts, **plan_facts(chosen)}
        deep = {"depth": asdict(by_block)} if by_block else {}
        deep |= {"passages": parts} if passages else {}
        console.emit_json(facts | {"worst": listed} | deep | about)
        return
    _emit(f"{score.model.name} on {test_text.text}", facts, listed)
    _emit_passages(parts)
    _emit_depth(by_block)


def _check_counts(**counts: int) -> None:
    for said, count in counts.items():
        if count < 0:
            raise InputError(f"The number of {said} to list is at least 0, not {count}.")


def _passages(found: "Differences", tokenizer, count: int) -> Iterator[dict]:
    """The passages in which the models are furthest apart, as plain data."""
    for place in found.passages(_LENGTH, count):
        part = found.part(place.start, place.stop)
        yield {
            "start": place.start,
            "tokens": len(place),
            **_means(part),
            "text": tokenizer.decode(part.tokens),
        }


def _means(found: "Differences") -> dict[str, float]:
    kl, agrees = found.kl.double(), found.agrees.double()
    return {"kl": float(kl.mean()), "agreement": float(agrees.mean())}


def _emit_passages(parts: list[dict[str, Any]]) -> None:
    if not parts:
        return
    header = ["From token", "KL, nats a token", "Same likeliest token", "Passage"]
    table = [
        [f"{one['start']:,}", f"{one['kl']:.3f}", f"{one['agreement']:.0%}", _quoted(one["text"])]
        for one in parts
    ]
    console.emit_table("Passages in which they are furthest apart", header, table)


def _emit_depth(found: Depth | None) -> None:
    if found is None:
        return
    from ..views.differences import depth_frame

    console.emit_frame(f"After every block, on {found.tokens:,} tokens", depth_frame(found))


def _emit(title: str, facts: dict[str, Any], listed: list[dict[str, Any]]) -> None:
    compared = facts["compared"]
    console.emit_table(
        f"{title}: {compared} beside dense",
        ["Tokens", "KL divergence, nats a token", "Same likeliest token"],
        [[f"{facts['tokens']:,}", f"{facts['kl']:.4f}", f"{facts['agreement']:.1%}"]],
    )
    if listed:
        header = [
            "Position",
            "After",
            "Follows",
            "KL",
            "Dense says",
            f"{compared.capitalize()} says",
        ]
        console.emit_table("Where they are furthest apart", header, list(map(_cells, listed)))


def _cells(row: dict[str, Any]) -> list[str]:
    read = (row["before"] + row["token"])[-_SHOWN:]
    said = [_likeliest(row[which]) for which in ("dense", "other")]
    follows = "" if row["next"] is None else _quoted(row["next"])
    return [f"{row['position']:,}", _quoted(read), follows, f"{row['kl']:.2f}", *said]


def _likeliest(said: dict[str, Any]) -> str:
    first = said["likeliest"][0]
    return f"{_quoted(first['token'])} {first['probability']:.0%}"


def _quoted(text: str) -> str:
    return repr(text)[1:-1]
