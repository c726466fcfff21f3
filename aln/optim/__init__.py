"""How weights move: optimizers, schedules of rates and coefficients, what a step trains, noise and clipping."""

from aln.optim.clipping import Clip
from aln.optim.coefficients import CoefficientSchedule, ScheduledRule
from aln.optim.course import Course, Turn
from aln.optim.groups import Part, backward_weights, parameter_groups
from aln.optim.noise import UpdateNoise
from aln.optim.optimizers import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    GradientDescent,
    Optimizer,
    RAdam,
    RMSProp,
    Swats,
    Swrats,
)
from aln.optim.schedules import SCHEDULES, Constant, Cosine, Schedule, Step
from aln.optim.swats import SWATS

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "SWATS",
    "Adagrad",
    "Adam",
    "Clip",
    "CoefficientSchedule",
    "Constant",
    "Cosine",
    "Course",
    "GradientDescent",
    "Optimizer",
    "Part",
    "RAdam",
    "RMSProp",
    "Schedule",
    "ScheduledRule",
    "Step",
    "Swats",
    "Swrats",
    "Turn",
    "UpdateNoise",
    "backward_weights",
    "parameter_groups",
]
