"""The one autograd function behind all aligned layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aln.errors import RuleError
from aln.maps import LinearMap
from aln.rules import LearningRule
from aln.signals import Activation, Signals


@dataclass
class OutputError:
    """The gradient at the output of a network [N, outputs], which its last layer leaves here in the backward pass.

    There is room for one: of two forward passes that wait for their backward passes, the layers below could not tell
    whose error they hear.
    """

    value: Tensor | None = None
    owner: Pass | None = None

    def publish(self, error: Tensor, owner: Pass) -> None:
        """Leaves the error of the pass `owner`. Raises `RuleError` if another pass's is still there."""
        if self.value is not None and self.owner is not owner:
            raise RuleError(
                f"{type(owner.rule).__name__}: two forward passes were made before their backward passes; "
                "layers that hear the error at the output need one backward pass after each forward pass"
            )
        self.value, self.owner = error, owner


@dataclass(frozen=True, kw_only=True)
class Pass:
    """How one forward and backward pass goes through a layer.

    Attributes:
        aligns: whether B learns in this pass.
        trains_task: whether the task is trained; if not, nothing but what the rule itself gives B (and W) is computed.
        rate: factor on what the rule itself gives B and W.
        activation: the activation that the layer's output goes through, if it is known.
        publishes: where the layer leaves the error at its output; the network's last layer does.
        hears: where the layer finds the error at the network's output, under rules that use it.
    """

    linear: LinearMap
    rule: LearningRule
    aligns: bool = True
    trains_task: bool = True
    rate: float = 1.0
    activation: Activation | None = None
    publishes: OutputError | None = None
    hears: OutputError | None = None


class AlignedFunction(torch.autograd.Function):
    """y = project(x, W) + bias, whose backward pass sends the error down through the rule's feedback weight
    and hands B its local gradient (arXiv 2003.01513, equation 2). The task loss reaches B only where the rule ties it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, B: Tensor | None, R: Tensor | None, bias: Tensor | None, how: Pass
    ) -> Tensor:
        output = how.linear.project(x, W, bias)
        ctx.how = how
        ctx.save_for_backward(
            x, W, B, R, bias, output if how.aligns and B is not None and how.rule.keeps_output else None
        )
        return output

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, W, B, R, bias, output = ctx.saved_tensors
        how: Pass = ctx.how
        rule = how.rule
        if how.publishes is not None:
            how.publishes.publish(dy, how)
        error = None if how.hears is None else how.hears.value
        if how.hears is not None and error is None:
            raise RuleError(
                f"{type(rule).__name__}: the error at the network's output has not come yet; it comes from "
                "the layer that `align(output=...)` names, whose backward pass must be the first"
            )
        s = Signals(
            map=how.linear,
            x=x,
            W=W,
            B=B,
            R=R,
            dy=dy,
            bias=bias,
            output=output,
            activation=how.activation,
            error=error,
        )
        need_dx, need_dw, need_db, _, need_dbias = ctx.needs_input_grad[:5]
        need_db = need_db and how.aligns
        task = how.trains_task
        wanted = (
            task and need_dx and not rule.uses_output_error,
            task and (need_dw or (need_db and rule.shares_task_gradient)),
            task and need_dbias,
        )
        # dW and dbias do not depend on the kernel's values, so one call serves the error through B and both of them.
        dx, dw, dbias = how.linear.backward(dy, x, rule.feedback(s) if wanted[0] else W, wanted)
        if task and need_dx and rule.uses_output_error:
            dx = rule.error_below(s)
        db = None
        if need_db:
            if rule.shares_task_gradient:
                s = replace(s, dW=dw if task else torch.zeros_like(W), rate=how.rate)
            db, extra = rule.local_gradients(s)
            if how.rate != 1 and not rule.shares_task_gradient:
                db, extra = (None if gradient is None else gradient * how.rate for gradient in (db, extra))
            if db is not None and db.shape != B.shape:
                found = f"{list(db.shape)}, expected B's {list(B.shape)}"
                raise RuleError(f"{type(rule).__name__} gives B a gradient of shape {found}")
            if extra is not None and need_dw:
                dw = extra if dw is None else dw + extra
        return dx, dw if need_dw else None, db, None, dbias, None
