"""`LearningRule`: what carries the error down a layer, and what the layer's backward weight learns."""

from __future__ import annotations

import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aln import primitives
from aln.errors import RuleError
from aln.primitives import Options
from aln.registry import Registry
from aln.signals import Signals, Synapses


@dataclass(frozen=True, kw_only=True)
class NewLayer:
    """What a rule is told of a layer when its backward weight is made.

    Attributes:
        W: the forward weight, [out, in] or [K, C / groups, kh, kw].
        inputs: features or channels (C) of the layer's input.
        outputs: number of the whole network's outputs.
        draw: `draw(*shape)` gives random weights with the standard deviation of W, independent of W.
    """

    W: Tensor
    inputs: int
    outputs: int
    draw: Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class LearningRule:
    """A local learning rule. Subclasses are frozen, keyword-only dataclasses whose fields are the coefficients.

    In the backward pass a layer sends down `dx = reconstruct(dy, feedback(synapses))` and hands
    `backward_grad(signals)` to the optimizer as the gradient of B. W gets the usual correlate(x, dy).
    Every numeric field must be finite; a subclass with narrower bounds checks them in `__post_init__`
    after calling this one. Raises `RuleError` when made with a value it cannot use. `aln.testing.check_rule` tells
    whether a rule keeps the whole contract.
    """

    has_backward_weight: ClassVar[bool] = True
    """False if the layers carry no B at all."""
    learns_backward_weight: ClassVar[bool] = True
    """False if B stays at its initial value."""
    shares_task_gradient: ClassVar[bool] = False
    """True if `backward_grad` reads the task's gradient dW, which is then there even if W itself is frozen.

    It multiplies by `s.rate` whatever else it gives B. dW is zero in a step that does not train the task.
    """
    decays_with_forward_weight: ClassVar[bool] = False
    """True if the optimizer's weight decay shrinks B as it shrinks W."""
    uses_output_error: ClassVar[bool] = False
    """True if `error_below` reads the error at the network's output in place of the local one."""
    source: ClassVar[str] = ""
    """Paper and equation."""

    def __post_init__(self) -> None:
        _require_sound(type(self))
        for field in dataclasses.fields(self):
            value, place = getattr(self, field.name), f"{type(self).__name__}.{field.name}"
            number = isinstance(value, float | int) and not isinstance(value, bool)
            real = isinstance(value, float) or isinstance(field.default, float) or field.type in ("float", float)
            if field.type in ("int", int) and not (number and isinstance(value, int)):
                raise RuleError(f"{place} = {value}: expected a whole number")
            if real and not (number and math.isfinite(value)):
                raise RuleError(f"{place} = {value}: expected a finite number")

    def initial_backward(self, layer: NewLayer) -> tuple[Tensor, Tensor | None]:
        """B and R as they are before training; R is None for rules without fixed weights beside B."""
        return layer.draw(*layer.W.shape), None

    def feedback(self, s: Synapses) -> Tensor:
        """The weight through which the error travels down, in the shape of W."""
        return s.B

    def error_below(self, s: Signals) -> Tensor:
        """The error that the layer sends down, in the shape of x. Asked of rules with `uses_output_error` alone."""
        raise NotImplementedError

    def backward_grad(self, s: Signals) -> Tensor | None:
        """The local gradient of B (what an optimizer descends), or None if B stays as it is."""
        return None

    def local_gradients(self, s: Signals) -> tuple[Tensor | None, Tensor | None]:
        """Gradient of B, and what the rule adds to the task's gradient of W; None for what it leaves alone."""
        return self.backward_grad(s), None

    def loss(self, s: Signals) -> Tensor | None:
        """The regularizer whose gradient `backward_grad` is, written out for autograd; None if there is none."""
        return None

    def aligns(self, step: int, carries_error: bool) -> bool:
        """Whether B learns in the layer's backward pass number `step` (from 0).

        `carries_error` is False in a layer whose input wants no gradient: the first, as a rule.
        """
        return True

    @property
    def averages_over_examples(self) -> bool:
        """Whether B's gradient is the mean of its gradients over the single examples, as the task's is.

        Where it is, the gradients of many workers average to that of the whole batch.
        """
        return True

    @property
    def learns_without_task(self) -> bool:
        """Whether B learns of something else than the task's gradient, so that alignment can be trained by itself."""
        return self.learns_backward_weight and not self.shares_task_gradient

    @property
    def moves_forward_weight(self) -> bool:
        """Whether the rule's own loss moves W too."""
        return False

    @property
    def skips_steps(self) -> bool:
        """Whether what `aligns` says depends on the step."""
        return False

    @property
    def keeps_output(self) -> bool:
        """Whether `backward_grad` reads the layer's output of the forward pass, which is then kept for it."""
        return False


def _require_sound(rule: type[LearningRule]) -> None:
    """Raises `RuleError` for a class that would train silently as something else than its author meant."""
    own = {name for name, kind in inspect.get_annotations(rule).items() if "ClassVar" not in str(kind)}
    if own - {field.name for field in dataclasses.fields(rule)}:
        raise RuleError(
            f"{rule.__name__} has settings but is no dataclass: write @dataclass(frozen=True, kw_only=True)"
        )
    silent = all(getattr(rule, name) is getattr(LearningRule, name) for name in ("backward_grad", "local_gradients"))
    if rule.learns_backward_weight and silent and rule is not LearningRule:
        raise RuleError(
            f"{rule.__name__} teaches B nothing: define backward_grad(self, s), or set learns_backward_weight = False"
        )


@dataclass(frozen=True, kw_only=True)
class RegularizedRule(LearningRule, Options, ABC):
    """A rule whose B descends a weighted sum of the five primitives (arXiv 2003.01513, section 3).

    Its options are those of `aln.primitives.Options`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in _NAMES.items():
            if (value := getattr(self, name)) is not None and value not in known:
                raise RuleError(f"{name} = {value!r}: expected {', '.join(known)} or null")
        if self.input_stddev <= 0:
            raise RuleError(f"input_stddev = {self.input_stddev}: expected a number above 0")
        if self.align_every < 1:
            raise RuleError(f"align_every = {self.align_every}: expected a whole number of at least 1")
        if not 0 < self.align_fraction <= 1:
            raise RuleError(f"align_fraction = {self.align_fraction}: expected a number above 0, and at most 1")
        taken = self.weights().keys()
        if self.reconstruction_amp and "amp" not in taken:
            raise RuleError("reconstruction_amp = True: expected false, the rule weighs no amp")
        if self.reconstruction_reversal and not ("null" in taken or self.reconstruction_amp):
            raise RuleError("reconstruction_reversal = True: expected false, the rule reconstructs nothing")

    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """The weight of each primitive that takes part."""

    def backward_grad(self, s: Signals) -> Tensor | None:
        return self.local_gradients(s)[0]

    def local_gradients(self, s: Signals) -> tuple[Tensor | None, Tensor | None]:
        dB, dW = primitives.gradients(self.weights(), s, self)
        if self.align_every > 1:  # the steps left out count for as much as this one
            dB, dW = (None if grad is None else grad.mul_(self.align_every) for grad in (dB, dW))
        return dB, dW

    def loss(self, s: Signals) -> Tensor | None:
        return primitives.loss(self.weights(), primitives.seen(s, self), self)

    def aligns(self, step: int, carries_error: bool) -> bool:
        # With weights of 0 B would stand still; momentum must not move it either.
        moves = self.shares_task_gradient or any(self.weights().values())
        return moves and step % self.align_every == 0 and (carries_error or self.align_first_layer)

    @property
    def averages_over_examples(self) -> bool:
        centers = self.batch_center_backward_input or self.batch_center_forward_output
        return self.align_fraction == 1 and not centers

    @property
    def moves_forward_weight(self) -> bool:
        return self.update_forward

    @property
    def skips_steps(self) -> bool:
        return self.align_every > 1

    @property
    def keeps_output(self) -> bool:
        return self.keeps_input and not self.update_forward and primitives.keeps_output(self.weights())


_NAMES = {
    "input_distribution": ("normal", "uniform"),
    "activation_fn_override": ("relu", "sigmoid", "tanh"),
}

RULES: Registry[type[LearningRule]] = Registry("learning rule", LearningRule, group="aln.rules")
