"""Laws over random worlds; `make test` tries a part of the examples, `make test-all` all of them."""

from __future__ import annotations

import os

_SHARE = float(os.environ.get("EVSIM_EXAMPLES", "0.35"))


def examples(all_of_them: int) -> int:
    """How many examples are tried: `EVSIM_EXAMPLES` is the share, 1 for all."""
    return max(round(all_of_them * _SHARE), 3)
