"""The checks of one layer under a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from aln.testing.bench import BATCH, Bench, first_turn, fixed_noise

Complaints = Iterator[str]

_EXACT = 1e-9  # of a norm, in float64
_NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_DRAWS = 200


def _starts_soundly(bench: Bench) -> Complaints:
    """B and R at the start have W's type, are finite and lie in memory of their own."""
    if not bench.rule.has_backward_weight:
        return
    for dtype in (torch.float64, torch.float32):
        layer = bench.layer.to(dtype)
        W, before = layer.weight.detach(), layer.weight.detach().clone()
        torch.default_generator.manual_seed(1)
        B, R = bench.rule.initial_backward(layer.new_layer())
        torch.default_generator.manual_seed(1)
        again = bench.rule.initial_backward(layer.new_layer())
        if not torch.equal(W, before):
            yield "initial_backward writes to W."
        for name, tensor, twin in (("B", B, again[0]), ("R", R, again[1])):
            if tensor is None:
                continue
            if tensor.dtype != dtype:
                yield f"initial_backward gives {name} the type {tensor.dtype} where W has {dtype}."
            if not tensor.isfinite().all():
                yield f"initial_backward gives a {name} that is not finite."
            if _memory(tensor) == _memory(W):
                yield f"initial_backward gives a {name} that lies in W's memory: they would move together."
            if twin is None or not torch.equal(tensor, twin):
                yield f"initial_backward gives another {name} under the same seed: draw by layer.draw(*shape)."


def _gradient_of_b_is_sound(bench: Bench) -> Complaints:
    """B's gradient has B's shape and type and is finite, also on a batch of one."""
    if not bench.rule.has_backward_weight:
        return
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        typed = bench.to(dtype)
        B = typed.tensors()["B"]
        for rows in (range(BATCH), range(1)):
            gradient, _ = typed.local_gradients(rows)
            if gradient is None:
                continue
            if gradient.shape != B.shape:
                yield f"B's gradient has the shape {tuple(gradient.shape)} where B has {tuple(B.shape)}."
            if gradient.dtype != dtype:
                yield f"B's gradient has the type {gradient.dtype} where the signals have {dtype}."
            if not gradient.isfinite().all():
                yield f"B's gradient on a batch of {len(rows)} in {dtype} is not finite."


def _sends_down_an_error_of_the_right_shape(bench: Bench) -> Complaints:
    """The feedback has W's shape and type; an error that the rule makes itself, the input's."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        typed = bench.to(dtype)
        with torch.no_grad():
            feedback = typed.layer.feedback_weight()
            sent = typed.rule.error_below(typed.signals()) if feedback is None else feedback
        like, name = (typed.x, "error_below") if feedback is None else (typed.layer.weight, "feedback")
        if sent.shape != like.shape:
            yield f"{name} gives the shape {tuple(sent.shape)}: expected {tuple(like.shape)}."
        if sent.dtype != dtype:
            yield f"{name} gives the type {sent.dtype} where the signals have {dtype}."
        if not sent.isfinite().all():
            yield f"{name} in {dtype} is not finite."


def _regularizer_stays_with_b(bench: Bench) -> Complaints:
    """Lower layers, W and the bias get what a plain layer with this feedback would give them, and no more."""
    layer, rule, dy = bench.layer, bench.rule, bench.dy.clone()
    with torch.no_grad():
        torch.default_generator.manual_seed(1)
        feedback = layer.feedback_weight()
        s = bench.signals()
        dx = rule.error_below(s) if feedback is None else s.reconstruct(dy, feedback)
        dW = s.correlate(s.x, dy)
    _, x = bench.run()
    found = bench.gradients()
    if not _near(x.grad, dx):
        yield (
            "The error sent down is not the transpose of the layer under feedback(): the regularizer leaks to the "
            "layers below, or feedback() gives another weight in the backward pass."
            if feedback is not None
            else "The error sent down is not what error_below() gives for the same signals."
        )
    if not rule.moves_forward_weight and not _near(found["weight"], dW):
        yield "W's gradient is not the task's correlate(x, dy): the regularizer leaks to W (or moves_forward_weight)."
    if layer.bias is not None and not _near(found["bias"], dy.transpose(0, 1).flatten(1).sum(1)):
        yield "The bias' gradient is not the sum of dy: the regularizer leaks to the bias."


def _leaves_its_signals_alone(bench: Bench) -> Complaints:
    """Signals are bit-identical after the backward pass."""
    before = {name: tensor.clone() for name, tensor in bench.tensors().items()}
    output = bench.layer(bench.x).detach().clone()
    y, _ = bench.run()
    after = bench.tensors() | {"output": y.detach()}
    for name, tensor in (before | {"output": output}).items():
        if not torch.equal(tensor, after[name]):
            yield f"It writes to {name}: signals are constants, use operations that are not in place."


def _gradients_have_memory_of_their_own(bench: Bench) -> Complaints:
    """Gradients share memory neither with each other nor with signals."""
    s = bench.signals()
    dB, dW = bench.rule.local_gradients(s)
    others = {name: getattr(s, name) for name in ("x", "W", "B", "R", "dy", "dW", "bias", "output", "error")}
    for name, gradient in (("B", dB), ("W", dW)):
        for other, tensor in (others | ({"B's gradient": dB} if name == "W" else {})).items():
            if gradient is not None and tensor is not None and _memory(gradient) == _memory(tensor):
                what = other if "gradient" in other or other != "dW" else "W's gradient (dW)"
                yield f"The gradient that the rule gives for {name} lies in the memory of {what}: clone it."


def _repeats_under_a_seed(bench: Bench) -> Complaints:
    """The same pass under the same seed gives the same gradients, and two passes their sum."""
    bench.run()
    once = {name: gradient.clone() for name, gradient in bench.gradients().items()}
    bench.run()
    if not all(_near(gradient, 2 * once[name]) for name, gradient in bench.gradients().items()):
        yield "Two backward passes do not add up to twice the gradient of one."
    bench.layer.zero_grad()
    bench.run()
    if not all(torch.equal(gradient, once[name]) for name, gradient in bench.gradients().items()):
        yield "The same signals under the same seed give another gradient: draw from torch's generator, keep no state."


def _asks_not_what_else_learns(bench: Bench) -> Complaints:
    """B's gradient is the same when W is frozen and the input wants no error."""
    if not bench.rule.has_backward_weight or not bench.rule.learns_backward_weight or bench.is_random():
        return
    with fixed_noise():
        bench.run()
        expected = bench.gradients().get("backward_weight")
        bench.layer.zero_grad()
        bench.layer.weight.requires_grad_(False)
        bench.run(x_learns=not bench.rule.aligns(bench.step, carries_error=False))
    if expected is not None and not _near(bench.gradients().get("backward_weight"), expected):
        yield "B's gradient is another one when W is frozen or the input wants no error."


def _takes_means_over_the_batch(bench: Bench) -> Complaints:
    """The gradients of two workers on half a batch each average to that of the whole batch."""
    half, rule = BATCH // 2, bench.rule
    if not rule.learns_backward_weight:
        return
    # The task's loss is a mean over the batch as well: dy on a half is twice what it is within the whole.
    if rule.averages_over_examples:
        parts, whole = [(range(half), 2.0), (range(half, BATCH), 2.0)], range(BATCH)
        complaint = "The gradients over two half batches do not average to that over the whole"
    else:
        parts, whole = [((0,), float(BATCH))], (0,) * BATCH  # type: ignore[list-item, assignment]
        complaint = "The gradient over one example repeated is not the gradient over that example"
    if all(_near(a, b) for a, b in _averages(bench, parts, whole)):
        return
    yield f"{complaint}: take means over the examples (divide by s.batch), not sums (or averages_over_examples)."


def _averages(
    bench: Bench, parts: Sequence[tuple[Sequence[int], float]], whole: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs that must agree: the mean over the parts, and the whole. Of random rules, statistics of many draws."""
    if not bench.is_random():
        with fixed_noise(whole):
            expected = bench.local_gradients(whole)
        means: list[list[Tensor]] = [[], []]
        for rows, scale in parts:
            with fixed_noise(rows):
                for mean, gradient in zip(means, bench.local_gradients(rows, scale), strict=True):
                    mean.extend([] if gradient is None else [gradient])
        for mean, right in zip(means, expected, strict=True):
            if right is not None:
                yield sum(mean, start=torch.zeros_like(right)) / len(parts), right
        return
    draws = [
        torch.stack([cast(Tensor, bench.local_gradients(rows, scale, seed=seed)[0]) for seed in range(_DRAWS)])
        for rows, scale in [*parts, (whole, 1.0)]
    ]
    variance = sum(drawn.var(0) for drawn in draws) / _DRAWS
    gap = sum(drawn.mean(0) for drawn in draws[:-1]) / len(parts) - draws[-1].mean(0)
    # Of the order of 1 if the means agree.
    deviations = float(gap.square().sum() / variance.sum())  # type: ignore[union-attr]
    yield torch.tensor(float(deviations > 6)), torch.tensor(0.0)


def _keeps_the_tasks_gradient_apart(bench: Bench) -> Complaints:
    """A rule that shares the task's gradient multiplies what is its own by s.rate, and nothing else."""
    rule = bench.rule
    if not (rule.learns_backward_weight and rule.shares_task_gradient):
        return

    def gradient(*, task: float, rate: float) -> Tensor:
        with fixed_noise():
            found, _ = bench.local_gradients(scale=task, rate=rate)
        return torch.zeros_like(bench.tensors()["B"]) if found is None else found

    task, own = gradient(task=1, rate=0), gradient(task=0, rate=1)
    right = [
        (gradient(task=0, rate=0), torch.zeros_like(own)),
        (gradient(task=1, rate=1), task + own),
        (gradient(task=1, rate=3), task + 3 * own),
    ]
    if not all(_near(found, expected) for found, expected in right):
        yield "What the rule adds to the task's gradient is not in proportion to s.rate: multiply it, and dW not."


def _gradient_is_that_of_its_loss(bench: Bench) -> Complaints:
    """Autograd of the written-out loss gives the gradient."""
    layer, rule = bench.layer, bench.rule
    torch.default_generator.manual_seed(1)
    loss = layer.alignment_loss(bench.x)
    if loss is None or not rule.learns_backward_weight:
        return
    wanted = [p for p in (layer.backward_weight, layer.weight if rule.moves_forward_weight else None) if p is not None]
    # Without weights a loss is a plain zero.
    written_out = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else (None, None)
    counts = first_turn(rule, after=bench.step) - bench.step
    found = bench.local_gradients()
    for name, gradient, expected in zip("BW", found, [*written_out, None], strict=False):
        if name == "W" and not rule.moves_forward_weight:
            continue
        right = torch.zeros_like(bench.tensors()[name]) if expected is None else counts * expected
        tied = "" if not rule.shares_task_gradient or name == "W" else " plus dW"
        if tied:
            right = right + cast(Tensor, bench.signals().dW)
        if not _near(torch.zeros_like(right) if gradient is None else gradient, right):
            times = f" times {counts} (for the steps left out)" if counts > 1 else ""
            yield f"The gradient of {name} in float64 is not that of the written-out loss{times}{tied}."


def _shorter_types_are_near_float64(bench: Bench) -> Complaints:
    """float32 and bfloat16 give nearly the gradient of float64."""
    if not bench.rule.has_backward_weight or bench.is_random():
        return
    with fixed_noise():
        expected, _ = bench.local_gradients()
        for dtype, tolerance in _NEAR.items():
            gradient, _ = bench.to(dtype).local_gradients()
            if expected is not None and not _near(gradient, expected, tolerance):
                yield f"B's gradient in {dtype} is further than {tolerance:g} of its norm from that in float64."


def _trains_under_autocast(bench: Bench) -> Complaints:
    """A pass under bfloat16 autocast gives finite gradients."""
    typed = bench.to(torch.float32)
    _, x = typed.run(autocast=True)
    for name, gradient in (typed.gradients() | {"x": cast(Tensor, x.grad)}).items():
        if not gradient.isfinite().all():
            yield f"The gradient of {name} under bfloat16 autocast is not finite."


def _near(found: Tensor | None, expected: Tensor, tolerance: float = _EXACT) -> bool:
    """Whether two tensors differ by no more than so much of the norm."""
    if found is None or found.shape != expected.shape:
        return False
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm()) <= tolerance * float(expected.norm()) + 1e-12


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


LAYER_CHECKS: list[Callable[[Bench], Complaints]] = [
    _starts_soundly,
    _gradient_of_b_is_sound,
    _sends_down_an_error_of_the_right_shape,
    _regularizer_stays_with_b,
    _leaves_its_signals_alone,
    _gradients_have_memory_of_their_own,
    _repeats_under_a_seed,
    _asks_not_what_else_learns,
    _takes_means_over_the_batch,
    _keeps_the_tasks_gradient_apart,
    _gradient_is_that_of_its_loss,
    _shorter_types_are_near_float64,
    _trains_under_autocast,
]
