"""The exceptions that bipcore raises on purpose."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one plain sentence that says what was wrong and what to do; the command
    line prints it and exits with status 2, a page shows it in an error box.
    """


class Cancelled(Exception):
    """Raised out of a progress callable to stop the computation that called it."""
