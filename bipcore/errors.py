"""The exceptions that bipcore raises on purpose."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one plain sentence that says what was wrong and what to do; the command
    line prints it and exits with status 2, a page shows it in an error box.
    """


class Cancelled(Exception):
    """Raised out of a progress callable to stop the computation that called it."""


LARGEST_SEED = 2**63 - 1


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that generators do not take."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"A seed is a whole number from 0 to 2^63 - 1, not {seed}.")


def explain(error: BaseException) -> str | None:
    """One sentence for an error that a user can do something about; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return (
            "There is not enough memory for this; use a smaller model, fewer or shorter samples, "
            "or a device with more."
        )
    return None
