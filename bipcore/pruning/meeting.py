"""The least sparsity at which plans of one kind cost no more than a target."""

from collections.abc import Callable

from ..errors import InputError
from .plan import PruningPlan
from .targets import Target

_HALVINGS = 20
"""The sparsity is found to a millionth."""


def meet(make: Callable[[float], PruningPlan], target: Target) -> PruningPlan:
    """The plan that ``make`` makes of the least sparsity with which it costs at most ``target``.

    A plan of more sparsity costs less, but for what rounding does. Raises InputError where the
    target is not below the dense model, or none that can be made meets it.
    """
    nothing = make(0.0)
    limit = target.limit(nothing.shape)
    found, smallest = None, target.cost(nothing.pruned_shape)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        try:
            made = make(middle)
        except InputError:  # more than can go
            high = middle
            continue
        cost = target.cost(made.pruned_shape)
        smallest = min(smallest, cost)
        if cost <= limit:
            found, high = made, middle
        else:
            low = middle
    if found is None:
        raise InputError(
            f"The target {target.text} is below the smallest plan with these settings, which has "
            f"about {target.said(smallest)}; ask for more, protect fewer blocks, or use the "
            "criterion obs-fisher, which removes whole sublayers, too."
        )
    return found
