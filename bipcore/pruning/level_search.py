"""A search over the widths of sublayers that keeps a budget and is led by what is measured.

Every sublayer has levels, from whole to gone. A switch takes some sublayers down and others up for
what that frees, and stays where the measured loss falls (the level switches of EvoPress, arXiv
2410.14649). Which switches are tried is ours: each sublayer is first shortened alone, and by these
slopes the switches with the greatest expected gain come first, of many sublayers at a time, then of
pairs. What a trial shows corrects the slopes that it was expected by.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Levels = tuple[int, ...]
"""One level of every sublayer, 0 the whole."""


@dataclass(frozen=True)
class Trial:
    """One step of a search: what was tried, its loss, and whether it was kept."""

    levels: Levels
    loss: float
    kept: bool


def search_levels(
    costs: Sequence[Sequence[float]],
    start: Levels,
    limit: float,
    measure: Callable[[Levels], float],
    *,
    steps: int,
) -> list[Trial]:
    """The trials of a search for the least loss: at most ``steps`` after the first, of ``start``.

    ``costs``: of each sublayer what it costs at every level, descending. ``start`` costs no more
    than ``limit``, and nothing that is kept does. ``measure`` gives the loss of levels, and all
    that is done follows from what it gave before. The last trial that was kept is the best.
    """
    found = _Search(costs, limit, measure, steps)
    found.begin(start)
    found.feel_slopes()
    found.switch()
    return found.trials


@dataclass
class _Search:
    """``slopes``: of each sublayer the loss that it is expected to add by a unit of cost less, None
    where it has one level only. ``apart``: the cost that a switch moves of each sublayer."""

    costs: Sequence[Sequence[float]]
    limit: float
    measure: Callable[[Levels], float]
    steps: int
    trials: list[Trial] = field(default_factory=list)
    levels: Levels = ()
    loss: float = math.inf
    slopes: list[float | None] = field(default_factory=list)

    def begin(self, start: Levels) -> None:
        self.levels, self.loss = start, self.measure(start)
        self.trials.append(Trial(start, self.loss, True))
        gaps = (abs(a - b) for of in self.costs for a, b in itertools.pairwise(of))
        self.apart = max(gaps, default=0.0)

    def feel_slopes(self) -> None:
        """Measure each sublayer alone, shorter, or longer where it cannot be."""
        self.slopes = [None] * len(self.costs)
        for number in range(len(self.costs)):
            other = self._lower(number, self.apart) or self._higher(number, self.apart)
            if other is None or self._spent:
                continue
            moved = self._with({number: other})
            change, before = self._cost(moved) - self._cost(self.levels), self.loss
            self.slopes[number] = (before - self._try(moved, may_stay=change < 0)) / change

    def switch(self) -> None:
        """Try switches until the steps are spent, or none is left from which a gain is expected."""
        many, tried = max(len(self.costs) // 4, 1), set()
        while not self._spent and self.apart:
            switch = self._next(many, tried)
            if switch is None:
                if many == 1:
                    self.apart, tried = self.apart / 2, set()
                    if self.apart < self._finest:
                        return
                many = max(many // 2, 1)
                continue
            moved, changed, expected = switch
            tried.add(moved)
            before = self.loss
            gain = before - self._try(moved, may_stay=True)
            self._correct(changed, expected, gain)
            if gain > 0:
                tried = set()
            else:
                many = max(many // 2, 1)

    def _next(self, many: int, tried: set[Levels]) -> tuple[Levels, dict[int, float], float] | None:
        """The switch of ``many`` sublayers against as many that promises most and is not ``tried``:
        the levels, what each sublayer that changes costs more, and the gain that is expected."""
        known = [number for number, slope in enumerate(self.slopes) if slope is not None]
        down = sorted(known, key=lambda number: self.slopes[number])
        if many > 1:
            chosen = [(down[:many], down[::-1][:many])]
        else:
            chosen = [([giver], [taker]) for giver in down for taker in reversed(down)]
        best = None
        for givers, takers in chosen:
            moved = self._moved(givers, takers)
            if moved is None or moved in tried:
                continue
            changed = {
                number: self.costs[number][new] - self.costs[number][old]
                for number, (old, new) in enumerate(zip(self.levels, moved, strict=True))
                if old != new
            }
            gain = sum(self.slopes[number] * more for number, more in changed.items())
            if gain > 0 and (best is None or gain > best[2]):
                best = moved, changed, gain
        return best

    def _moved(self, givers: Sequence[int], takers: Sequence[int]) -> Levels | None:
        """The levels with ``givers`` shorter, and ``takers`` longer for what that leaves of the
        limit, the first first; None where nothing comes of it."""
        lower = {one: self._lower(one, self.apart) for one in givers if one not in takers}
        levels = self._with({one: level for one, level in lower.items() if level is not None})
        left, grown = self.limit - self._cost(levels), False
        for one in takers:
            if one in givers:
                continue
            higher = self._higher(one, min(self.apart, left))
            if higher is not None:
                left -= self.costs[one][higher] - self.costs[one][self.levels[one]]
                levels, grown = self._with({one: higher}, levels), True
        return levels if grown else None

    def _lower(self, number: int, amount: float) -> int | None:
        """The first level of a sublayer that costs ``amount`` less at least, else its last."""
        costs, now = self.costs[number], self.levels[number]
        less = (i for i in range(now + 1, len(costs)) if costs[now] - costs[i] >= amount)
        last = len(costs) - 1
        return next(less, last if last > now else None)

    def _higher(self, number: int, amount: float) -> int | None:
        """The highest level of a sublayer that costs at most ``amount`` more."""
        costs, now = self.costs[number], self.levels[number]
        more = (i for i in range(now) if costs[i] - costs[now] <= amount)
        return next(more, None)

    def _try(self, levels: Levels, *, may_stay: bool) -> float:
        loss = self.measure(levels)
        kept = may_stay and loss < self.loss
        self.trials.append(Trial(levels, loss, kept))
        if kept:
            self.levels, self.loss = levels, loss
        return loss

    def _correct(self, changed: dict[int, float], expected: float, gain: float) -> None:
        """Share what a trial showed otherwise among the slopes that were wrong."""
        weight = sum(more * more for more in changed.values())
        for number, more in changed.items():
            self.slopes[number] += (gain - expected) * more / weight

    def _with(self, changes: dict[int, int], levels: Levels | None = None) -> Levels:
        of = list(self.levels if levels is None else levels)
        for number, level in changes.items():
            of[number] = level
        return tuple(of)

    def _cost(self, levels: Levels) -> float:
        return sum(costs[level] for costs, level in zip(self.costs, levels, strict=True))

    @property
    def _finest(self) -> float:
        gaps = (a - b for of in self.costs for a, b in itertools.pairwise(of) if a > b)
        return min(gaps, default=math.inf)

    @property
    def _spent(self) -> bool:
        return len(self.trials) > self.steps
