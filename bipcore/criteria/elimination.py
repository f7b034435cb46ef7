"""Optimal brain surgeon on a projection's inputs: which goes next, and what its going costs.

Plain linear algebra in float64. A projection W (d, n) reads inputs with the second moments
H (n, n), held back or not. Without the inputs R, the best weights of those that stay leave the
error tr(W_R [G_RR]^-1 W_Rᵀ), G = H^-1: that of least squares, without solving it anew. What is left
is a smaller problem of the same kind, with W − W_R [G_RR]^-1 G_R: and G − G_:R [G_RR]^-1 G_R:
(Hassibi and Stork 1993; for whole inputs ZipLM, arXiv 2302.04089).

Of W only the products N = WᵀW (n, n) of its columns count: N_R takes the place of W_R in all of
this. With N = WᵀMW the error is that which M (d, d) weighs.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

MOST_CHOICES = 256
"""So many ways to take one unit of every set are all tried; of more, one set after the other."""

_PENDING = 64  # inputs that are gone before the matrices are brought up to date


@dataclass(frozen=True, eq=False)
class Elimination:
    """The order in which units go, and the error after each.

    ``order`` (rounds, sets): the unit that goes of every set, round by round, int64; ``errors``
    (rounds + 1,): what is lost after so many rounds, float64, from 0 to all there was; it never
    falls.
    """

    order: Tensor
    errors: Tensor


def held_back(moments: Tensor, ridge: float) -> Tensor:
    """Second moments (n, n) with the ridge of a refit on the diagonal, float64: to each input's
    mean square the share ``ridge`` of itself, or of the median where that is more."""
    found = (moments.cpu() if moments.device.type == "mps" else moments).detach().double()
    squares = found.diagonal()
    if not len(squares):
        return found
    scale = squares.clamp_min(squares.median())
    return found + torch.diag(ridge * torch.where(scale > 0, scale, 1.0))


def eliminate_inputs(
    products: Tensor, moments: Tensor, *, together: Callable[[int], int] = lambda left: 1
) -> Elimination:
    """Take inputs away, the one that is missed least first, until none of the n is left.

    ``products`` (n, n) of the columns of the weights, ``moments`` (n, n) positive definite.
    ``together`` says how many go in a round, of so many that are left: the cheapest ones by their
    prices then. The errors are exact whatever it is; with 1, the default, so is the order: each
    round takes the cheapest there is. Takes about 4·n³ multiply-adds and 5 n × n matrices. Raises
    InputError for moments that cannot be inverted.
    """
    state = _Remaining(products.to(moments), _inverse(moments))
    order, costs = [], []
    while state.count:
        chosen = state.cheapest(min(together(state.count), state.count))
        for some in chosen.split(_PENDING):
            order.append(some)
            costs.append(state.remove(some))
    return _elimination(order, costs, sets=1, like=moments)


class _Remaining:
    """The k inputs that are left, and what it takes to price them.

    ``products`` and ``inverse`` (k, k) lag behind by what is pending, rows u of ``factors`` and q
    of ``shares``: uᵀq + qᵀu of the products, uᵀu of the inverse. The prices do not lag.
    """

    def __init__(self, products: Tensor, inverse: Tensor) -> None:
        self.products, self.inverse = products, inverse
        self.inputs = torch.arange(len(inverse), device=inverse.device)
        self._start()

    def _start(self) -> None:
        """With nothing pending."""
        self.pending, self.count = 0, len(self.inputs)
        self._rows = self.inverse.new_empty(2, _PENDING, self.count)
        self.gone = torch.zeros_like(self.inputs, dtype=torch.bool)
        self.lengths = self.products.diagonal().clone()  # (k,) N_jj
        self.spread = self.inverse.diagonal().clone()  # (k,) G_jj

    @property
    def factors(self) -> Tensor:
        return self._rows[0, : self.pending]

    @property
    def shares(self) -> Tensor:
        return self._rows[1, : self.pending]

    def cheapest(self, count: int) -> Tensor:
        """The ``count`` inputs whose going alone costs least, in that order."""
        prices = (self.lengths / self.spread).masked_fill_(self.gone, math.inf)
        if count == 1:
            return self.inputs[prices.argmin()[None]]
        return self.inputs[prices.topk(count, largest=False).indices]

    def remove(self, inputs: Tensor) -> Tensor:
        """Take at most `_PENDING` inputs away, one after the other; what each cost."""
        if self.pending + len(inputs) > _PENDING:
            self._catch_up(~self.gone)
        places = torch.searchsorted(self.inputs, inputs)
        factors, shares = self.factors, self.shares
        inverse = self.inverse[places] - factors[:, places].T @ factors  # (r, k)
        products = self.products[places] - factors[:, places].T @ shares
        products -= shares[:, places].T @ factors
        factors, shares, costs = _step(inverse, products, places)
        self.spread -= factors.square().sum(0)
        self.lengths -= 2 * (factors * shares).sum(0)
        self.lengths.clamp_(min=0)
        self.gone[places] = True
        self._rows[0, self.pending : self.pending + len(places)] = factors
        self._rows[1, self.pending : self.pending + len(places)] = shares
        self.pending += len(places)
        self.count -= len(places)
        return costs

    def _catch_up(self, stay: Tensor) -> None:
        """Bring the matrices up to date, and let go of all inputs but those that ``stay``."""
        factors, shares = self.factors[:, stay], self.shares[:, stay]
        self.inverse = self.inverse[stay][:, stay].addmm_(factors.T, factors, alpha=-1)
        products = self.products[stay][:, stay].addmm_(factors.T, shares, alpha=-1)
        self.products = products.addmm_(shares.T, factors, alpha=-1)
        self.inputs = self.inputs[stay]
        self._start()


def _step(inverse: Tensor, products: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows u and q (r, k) by which the inverse and the products change when the inputs at
    ``places`` go, and what each of these costs (r,); given their rows of both."""
    root = _root(inverse[:, places])
    factors = torch.linalg.solve_triangular(root, inverse, upper=False)
    shares = torch.linalg.solve_triangular(root, products, upper=False)
    among = torch.linalg.solve_triangular(root, shares[:, places].T, upper=False)  # (r, r)
    return factors, shares - among @ factors / 2, among.diagonal().clamp_min(0)


def eliminate_units(
    products: Tensor, moments: Tensor, units: Tensor, *, grouped: bool = False
) -> Elimination:
    """Take units of inputs away: one out of every set in a round, until none is left.

    ``units`` (sets, of each, width): the inputs of every unit; ``products`` and ``moments`` as in
    `eliminate_inputs`. A round takes the choice of one unit a set that costs least together; where
    there are more than `MOST_CHOICES`, the cheapest unit of all sets, then that of the others,
    given it, and so on. ``grouped``: each unit is priced alone and without bringing the weights of
    its own inputs up to date, Σ_j N_jj / L_jj², L the Cholesky factor of G_BB (SlimGPT, arXiv
    2412.18110); the errors are exact all the same. Raises InputError for moments that cannot be
    inverted.
    """
    inverse, products = _inverse(moments), products.to(moments)
    units = units.to(moments.device)
    left = [list(range(units.shape[1])) for _ in range(len(units))]
    order, costs = [], []
    for _ in range(units.shape[1] if len(units) else 0):
        choice = _cheapest_choice(products, inverse, units, left, grouped)
        for one_set, unit in zip(left, choice, strict=True):
            one_set.remove(unit)
        places = torch.cat([units[number, unit] for number, unit in enumerate(choice)])
        factors, shares, each = _step(inverse[places], products[places], places)
        inverse = inverse.addmm(factors.T, factors, alpha=-1)
        products = products.addmm(factors.T, shares, alpha=-1).addmm_(shares.T, factors, alpha=-1)
        order.append(torch.tensor(choice))
        costs.append(each.sum()[None])
    return _elimination(order, costs, sets=len(units), like=moments)


def _cheapest_choice(
    products: Tensor, inverse: Tensor, units: Tensor, left: list[list[int]], grouped: bool
) -> list[int]:
    """The unit of every set that goes next."""

    def price(choice: dict[int, int]) -> float:
        places = torch.cat([units[number, unit] for number, unit in choice.items()])
        root, among = _root(inverse[places][:, places]), products[places][:, places]
        if grouped:
            return float((among.diagonal() / root.diagonal().square()).sum())
        return float(torch.cholesky_solve(among, root).diagonal().sum())

    if not grouped and math.prod(map(len, left)) <= MOST_CHOICES:
        every = itertools.product(*left)
        return list(min(every, key=lambda choice: price(dict(enumerate(choice)))))
    chosen: dict[int, int] = {}
    while len(chosen) < len(left):
        given = {} if grouped else chosen
        free = [(number, unit) for number, those in enumerate(left) for unit in those]
        free = [option for option in free if option[0] not in chosen]
        number, unit = min(free, key=lambda option: price(given | dict([option])))
        chosen[number] = unit
    return [chosen[number] for number in range(len(left))]


def _inverse(moments: Tensor) -> Tensor:
    return torch.cholesky_inverse(_root(moments))


def _root(matrix: Tensor) -> Tensor:
    root, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise InputError(
            "The second moments cannot be inverted; calibrate on more tokens, or raise the ridge."
        )
    return root


def _elimination(
    order: list[Tensor], costs: list[Tensor], *, sets: int, like: Tensor
) -> Elimination:
    errors = torch.cat([like.new_zeros(1), *costs]).cumsum(0)
    rounds = torch.cat(order) if order else torch.zeros(0, dtype=torch.int64)
    return Elimination(rounds.reshape(-1, max(sets, 1)).cpu(), errors.cpu())
