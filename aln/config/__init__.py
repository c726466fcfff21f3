"""The description layer: YAML and `--set key=value` to typed, checked, immutable configurations."""

from aln.config.components import Component
from aln.config.course import OF_ALIGNMENT, course_of, scheduled_rule
from aln.config.documents import (
    Document,
    dump,
    parse_document,
    parse_value,
    read_document,
    set_at,
    settings_of,
    with_settings,
)
from aln.config.objectives import Objective, refusal
from aln.config.run import (
    Checkpoint,
    Compute,
    Resources,
    RunConfig,
    check_run,
    flatten,
    known_keys,
    located,
    parse_run,
    preset_names,
    problems_of,
    read_run,
)
from aln.config.section import Section
from aln.config.sweep import Budget, Sampler, Scheduler, SweepConfig, check_name, parse_sweep, sound_part

__all__ = [
    "OF_ALIGNMENT",
    "Budget",
    "Checkpoint",
    "Component",
    "Compute",
    "Document",
    "Objective",
    "Resources",
    "RunConfig",
    "Sampler",
    "Scheduler",
    "Section",
    "SweepConfig",
    "check_name",
    "check_run",
    "course_of",
    "dump",
    "flatten",
    "known_keys",
    "located",
    "parse_document",
    "parse_run",
    "parse_sweep",
    "parse_value",
    "preset_names",
    "problems_of",
    "read_document",
    "read_run",
    "refusal",
    "scheduled_rule",
    "set_at",
    "settings_of",
    "sound_part",
    "with_settings",
]
