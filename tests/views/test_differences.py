"""A text with its tokens coloured: nothing of it is markup, and the colour is the divergence."""

import re

import torch

from bipcore.evaluation.differences import Differences, Predictions
from bipcore.views.differences import FULL, coloured_text, likeliest_ids, worst_frame

NAMES = ("Original", "Pruned")


def _found(apart: list[float]) -> Differences:
    n = len(apart)
    likeliest = torch.arange(5).expand(n, 5)
    rank = torch.tensor([2] * (n - 1) + [0])
    one = Predictions(likeliest, torch.full((n, 5), 0.2), rank, torch.zeros(n))
    return Differences(torch.arange(n), torch.tensor(apart), one, one)


def test_the_colour_is_none_without_a_difference_and_whole_from_full_on():
    html = coloured_text(_found([0.0, FULL / 2, FULL, 3 * FULL]), list("abcd"), NAMES, ["x"] * 40)
    shades = re.findall(r"background-color:#D55E00(\w\w)", html)
    assert shades == ["00", "64", "c8", "c8"]


def test_the_text_and_what_models_say_are_no_markup():
    evil = '<script>alert("1")</script>"&'
    found = _found([1.0])
    html = coloured_text(found, [evil], ("<b>", "Pruned"), [evil] * 10)
    assert "<script>" not in html
    assert "<b>" not in html
    assert re.fullmatch(r'<div style="[^"<>]*"><span style="[^"<>]*" title="[^"<>]*">[^<>]*</span></div>', html)  # fmt: skip  # noqa: E501


def test_every_prediction_is_said_by_its_own_words():
    found = _found([1.0, 2.0])
    ids = likeliest_ids(found)
    assert ids == [0, 1, 2, 3, 4] * 4
    html = coloured_text(found, ["a", "b"], NAMES, [f"t{place}" for place in range(len(ids))])
    titles = re.findall(r'title="([^"]*)"', html)
    assert [re.findall(r"t(\d+)", title) for title in titles] == [
        [str(place) for place in range(start, start + 10)] for start in (0, 10)
    ]
    assert "number 2 of Original, 2 of Pruned" in titles[0]
    assert "number" not in titles[1]


def test_the_table_says_where_and_what():
    said = {"likeliest": [{"token": " at", "probability": 0.95}], "rank_of_next": 1}
    other = {"likeliest": [{"token": ".", "probability": 0.11}], "rank_of_next": 7}
    row = {"position": 3, "before": "water ", "token": "boils", "next": " at", "kl": 3.16}
    last = row | {"next": None, "dense": said, "other": other}
    frame = worst_frame([row | {"dense": said, "other": other}, last], NAMES)
    assert frame["After"].tolist() == ["water boils"] * 2
    assert frame["Original"].tolist() == ["' at' 95%"] * 2
    assert frame["Rank of what follows"].tolist() == ["1 → 7", "-"]
