"""Whether a sweep can search a space the way it says: what Optuna 5's samplers do not do with some parameters.

| sampler | lists of values | conditions | objectives | beside running trials |
|---|---|---|---|---|
| tpe | yes | yes (`group=True`) | several | they repel the next point (`constant_liar`) |
| random | yes | yes | several | independent |
| grid | yes | yes: ours walks the space | several | independent |
| cmaes | at random, beside the model | at random, beside the model | one | a generation waits for nobody |
| gp | yes | at random, beside the model | several | q-batch acquisition functions know them |
| qmc | yes | at random, beside the sequence | several | the next number of the sequence |

What a sampler would silently draw at random is refused here.
"""

from __future__ import annotations

from aln.config import SweepConfig
from aln.errors import Problem
from aln.space.grids import grid_problems
from aln.space.parameters import Choice
from aln.space.space import SearchSpace


def sampler_problems(sweep: SweepConfig, space: SearchSpace) -> list[Problem]:
    """What of the space the sweep's sampler cannot search, at the space's lines."""
    name, problems = sweep.sampler.name, []
    if name == "grid":
        problems += grid_problems(space)
    for key, parameter in space.parameters.items():
        if name == "cmaes" and isinstance(parameter, Choice) and len(parameter.values) > 1:
            message = "is a list of values, but cmaes searches ranges alone: use tpe or gp, or fix the value"
            problems.append(space.problem(key, message))
        if name in ("cmaes", "gp", "qmc") and parameter.when:
            message = f"has a condition, but under {name} every point has all parameters: use tpe, random or grid"
            problems.append(space.problem(key, message))
    if sweep.seeds > 1 and ("seed" in space.parameters or "seed" in space.ties):
        message = f"is searched, but `seeds: {sweep.seeds}` trains each point with seeds of its own: say one of them"
        problems.append(space.problem("seed", message))
    return problems
