"""Seeds derived from seeds: randomness as a pure function of where it is needed."""

from __future__ import annotations

import numpy as np


def derived_seed(*parts: int) -> int:
    """A seed in [0, 2⁶³) for a tuple of whole numbers of at least 0, unrelated to the seeds of all other tuples."""
    # SeedSequence fills up with zeros: without the number of parts (3,) and (3, 0) would share a seed.
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> 1)
