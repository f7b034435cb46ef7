"""Which programs take a plan, as a table: verdicts in, a data frame out."""

from collections.abc import Sequence

import pandas as pd

from ..export.runtimes import Verdict


def runtimes_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row for each program: whether it takes the plan, in which format, whether such exports were
    run in it here, and if not why, and the nearest plan that would do."""
    rows = [
        {
            "program": one.program,
            "takes_it": "yes" if one.takes else "no",
            "format": one.format if one.takes else "",
            "run_here": "yes" if one.tried else "no, read in its sources",
            "why_not": one.reason,
            "what_would_do": one.nearest,
        }
        for one in verdicts
    ]
    return pd.DataFrame(rows)
