"""Whether a space can be searched point by point."""

from __future__ import annotations

import itertools

from aln.errors import Problem
from aln.space.space import SearchSpace, holds

_MOST = 100_000


def grid_problems(space: SearchSpace) -> list[Problem]:
    """What keeps a space from being searched point by point, by the space's keys."""
    problems = []
    for key, parameter in space.parameters.items():
        if parameter.grid is None:
            message = "has no end of values, but a grid needs some: say `points: 5` (or `step`)"
            problems.append(space.problem(key, message))
    if problems:
        return problems
    for number, point in enumerate(space.enqueued, start=1):
        missing = [
            key for key, parameter in space.parameters.items() if key not in point and holds(parameter.when, point)
        ]
        if missing:
            message = f"point {number} leaves out {', '.join(missing)}, which a grid does not choose"
            problems.append(space.problem("enqueue", message))
    walked = sum(1 for _ in itertools.islice(space.walk(), _MOST + 1))
    if walked > _MOST:
        message = f"the grid has more than {_MOST:,} points: say fewer `points`, or larger steps"
        problems.append(space.problem("parameters", message))
    elif space.constraints and not space.grid():
        message = f"none of the grid's {walked:,} points keeps the constraints"
        problems.append(space.problem("constraints", message))
    return problems
