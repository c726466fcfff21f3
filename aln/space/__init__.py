"""Search spaces: which coefficients are searched, and over what.

    rule: information                      # or {values: [information, mirror]}: a space may range over rules
    parameters:
      rule.alpha: {min: 1e-5, max: 1e-1, log: true}
      rule.gamma: {min: 1e-5, max: 1e-1, log: true, when: {rule.input_distribution: normal}}
      rule.beta: {tie: rule.alpha, factor: 0.1}
      rule.input_distribution: {values: [null, normal]}
      optimizer.lr: {value: 0.05}
    constraints: [rule.alpha < rule.gamma]
    enqueue: [{rule.alpha: 1e-3, rule.input_distribution: null}]

A parameter is a range (`min`, `max`, optionally `log` or `step`, or `points` for a grid; whole numbers where the
setting is one), a list of `values`, one `value`, or a `tie` to another key. `when` says for which values of other
parameters it is there at all. Every key is a key of the run configuration, and both ends of a range must be legal
there, under each rule for which the key is there.
"""

from aln.space.constraints import Constraint
from aln.space.grids import grid_problems
from aln.space.parameters import (
    Choice,
    Parameter,
    Range,
    Tie,
    When,
    format_parameter,
    format_point,
    format_value,
    format_when,
    listed,
    thawed,
)
from aln.space.parsing import parse_space
from aln.space.samplers import sampler_problems
from aln.space.space import RULE, SearchSpace, holds

__all__ = [
    "RULE",
    "Choice",
    "Constraint",
    "Parameter",
    "Range",
    "SearchSpace",
    "Tie",
    "When",
    "format_parameter",
    "format_point",
    "format_value",
    "format_when",
    "grid_problems",
    "holds",
    "listed",
    "parse_space",
    "sampler_problems",
    "thawed",
]
