"""One rule for each way to be unsound, and what the contract suite must say of it."""

import pickle
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from sound_rules import DirectFeedback, EveryOther, Gated, OwnNoise, Sound, rule

from aln.errors import RuleError
from aln.rules import Backprop, LearningRule
from aln.signals import Signals

BROKEN = {}
STATE = {}


def broken(*complaints, **coefficients):
    """Registers a rule of which exactly these complaints (patterns) are expected; "..." allows others beside."""

    def store(cls):
        BROKEN[cls.__name__] = (lambda: cls(**coefficients), complaints)
        return cls

    return store


@broken("no dataclass of its own")
class Undecorated(Sound):
    def aligns(self, step, carries_error):
        return True


@broken(r"ByPosition\.more can be given by position")
@dataclass(frozen=True)
class ByPosition(Sound):
    more: float = 1.0


@broken("Changeable can be changed after it was made")
@rule
class Changeable(Sound):
    pass


Changeable.__setattr__ = object.__setattr__


@broken("Two Unequal with the same coefficients are not equal")
@rule
class Unequal(Sound):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


@broken("takes rate = nan: call super", "takes rate = inf", "takes rate = -inf")
@rule
class Unchecked(Sound):
    def __post_init__(self):
        pass


@broken("error for rate = nan does not name the field", "rate = inf does not", "rate = -inf does not")
@rule
class Mumbling(Sound):
    def __post_init__(self):
        if not abs(self.rate) < 1e9:
            raise RuleError("that will not do")


@broken("a B that is not there cannot learn")
@rule
class LearnsWithoutB(Backprop):
    learns_backward_weight: ClassVar[bool] = True

    def backward_grad(self, s):
        return None


@broken("B would never learn", "...")
@rule
class NeverLearns(Sound):
    def aligns(self, step, carries_error):
        return False


@broken("skips_steps is False: no layer would count")
@rule
class UncountedSteps(EveryOther):
    skips_steps = False


@broken("learns_backward_weight is True, but B gets no gradient")
@rule
class Idle(LearningRule):
    def backward_grad(self, s):
        return None


@broken("gives B a gradient that nobody uses")
@rule
class Unused(Sound):
    learns_backward_weight: ClassVar[bool] = False


@broken("Lower layers' gradients depend on the B of an upper layer", "Upper layers' gradients depend", "...")
@rule
class Whispering(Sound):
    """Tells the next layer, and the next pass, how large its B is."""

    def backward_grad(self, s):
        told = STATE.get("whisper", 1.0)
        STATE["whisper"] = float(s.B.square().mean())
        return told * super().backward_grad(s)


@broken("A deep copy of an aligned network", "that was pickled", "that loaded another's state dict")
@rule
class Hoarding(Sound):
    """Keeps a weight of its own for every W, by where it lies."""

    def feedback(self, s):
        scale = STATE.setdefault(("hoard", s.W.data_ptr()), 1 + len(STATE))
        return s.B * scale


@broken(r"It raised PicklingError .* Pickling and back", "...")
@rule
class Unpicklable(Sound):
    def __reduce__(self):
        raise pickle.PicklingError("no")


@broken(r"the shape \(1, 7\) where B has \(5, 7\)", "...")
@rule
class Summed(Sound):
    """Autograd would spread this over B without a word."""

    def backward_grad(self, s):
        return super().backward_grad(s).sum(0, keepdim=True)


@broken(r"B's gradient has the type torch.float64 where the signals have torch.float32", "torch.bfloat16")
@rule
class AlwaysFloat64(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s).double()


@broken("on a batch of 1 in torch.float64 is not finite", "float32 is not", "bfloat16 is not", "...")
@rule
class DividesByDeviation(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s) / (0 * s.x.flatten() if s.batch == 1 else s.x).std()

    def loss(self, s):
        return None


@broken(r"feedback gives the shape \(7, 5\): expected \(5, 7\)", "...")
@rule
class Transposed(Sound):
    def feedback(self, s):
        return s.B.transpose(0, 1)


@broken("feedback gives the type torch.float64 where the signals have torch.float32", "...")
@rule
class Float64Feedback(Sound):
    def feedback(self, s):
        return s.B.double()


@broken("feedback in torch.float64 is not finite", "float32 is not", "bfloat16 is not", "...")
@rule
class EndlessFeedback(Sound):
    def feedback(self, s):
        return s.B / 0


@broken(r"error_below gives the shape \(4, 7\): expected \(4, 3, 7\)", "...")
@rule
class FlatError(DirectFeedback):
    def error_below(self, s):
        return s.error @ s.B


@broken("the regularizer leaks to the layers below")
@rule
class LeaksBelow(Sound):
    def feedback(self, s):
        return s.B + self.backward_grad(s) if isinstance(s, Signals) else s.B


@broken("not what error_below", "...")
@rule
class RestlessError(DirectFeedback):
    def error_below(self, s):
        STATE["errors"] = STATE.get("errors", 0) + 1
        return super().error_below(s) * STATE["errors"]


@broken("the regularizer leaks to W")
@rule
class LeaksToW(Sound):
    def local_gradients(self, s):
        return self.backward_grad(s), 2 * self.rate * s.W


@broken("the regularizer leaks to the bias", "It writes to dy", "...")
@rule
class ScalesError(Sound):
    def feedback(self, s):
        if isinstance(s, Signals):
            s.dy.mul_(1.5)
        return s.B


@broken("It writes to x", "...")
@rule
class CentersInput(Sound):
    def backward_grad(self, s):
        s.x.sub_(s.x.mean())
        return super().backward_grad(s)


@broken("It writes to output", "...")
@rule
class RectifiesOutput(Sound):
    keeps_output = True

    def backward_grad(self, s):
        s.output.relu_()
        return super().backward_grad(s)


@broken("It writes to W", "It writes to B", "It writes to R", "It writes to bias", "...")
@rule
class ShrinksWeights(Gated):
    def backward_grad(self, s):
        for weight in (s.W, s.B, s.R, s.bias):
            if weight is not None:
                weight.mul_(0.9)
        return super().backward_grad(s)


@broken("It writes to error", "...")
@rule
class HalvesError(DirectFeedback):
    def error_below(self, s):
        return replace(s, error=s.error.mul_(0.5)) and super().error_below(s)


@broken(r"for B lies in the memory of W's gradient \(dW\): clone it")
@rule
class SharesGradient(LearningRule):
    shares_task_gradient: ClassVar[bool] = True

    def backward_grad(self, s):
        return s.dW


@broken("for B lies in the memory of B: clone it")
@rule
class HandsBackB(LearningRule):
    def backward_grad(self, s):
        return s.B


@broken("for W lies in the memory of B's gradient: clone it")
@rule
class OneForBoth(Sound):
    moves_forward_weight = True

    def local_gradients(self, s):
        gradient = self.backward_grad(s)
        return gradient, gradient

    def loss(self, s):
        return None


@broken("Two backward passes do not add up", "The same signals under the same seed", "...")
@rule
class Tiring(Sound):
    def backward_grad(self, s):
        STATE["passes"] = STATE.get("passes", 0) + 1
        return super().backward_grad(s) * (1 + 1 / STATE["passes"])


@broken("B's gradient is another one when W is frozen")
@rule
class AsksForW(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s) * (1 if s.W.requires_grad else 2)

    def loss(self, s):
        return None


@broken("The gradients over two half batches do not average")
@rule
class Summing(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s) * s.batch

    def loss(self, s):
        return super().loss(s) * s.batch


@broken("The gradients over two half batches do not average")
@rule
class SummingNoise(OwnNoise):
    def backward_grad(self, s):
        return super().backward_grad(s) * s.batch


@broken("The gradient over one example repeated is not")
@rule
class SummingCentered(Summing):
    averages_over_examples = False


@broken("gradient of B in float64 is not that of the written-out loss")
@rule
class WrongFactor(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s) / 2


@broken("is not that of the written-out loss plus dW", "not in proportion to s.rate")
@rule
class ForgetsTask(Sound):
    shares_task_gradient: ClassVar[bool] = True


@broken("not in proportion to s.rate")
@rule
class IgnoresRate(Sound):
    shares_task_gradient: ClassVar[bool] = True

    def backward_grad(self, s):
        return super().backward_grad(s) + s.dW


@broken(r"not that of the written-out loss times 3 \(for the steps left out\)")
@rule
class SkipsForNothing(EveryOther):
    def aligns(self, step, carries_error):
        return step % 3 == 1


@broken("gradient of W in float64 is not that of the written-out loss")
@rule
class WrongForW(Sound):
    moves_forward_weight = True

    def local_gradients(self, s):
        return self.backward_grad(s), s.W.clone()


@broken("torch.float32 is further than 0.001", "torch.bfloat16 is further than 0.1")
@rule
class Cancelling(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s) + 1e6 - 1e6

    def loss(self, s):
        return None


@broken("of backward_weight under bfloat16 autocast is not finite", "bfloat16 is not finite", "bfloat16 is further")
@rule
class OverflowsInBfloat16(Sound):
    def backward_grad(self, s):
        return super().backward_grad(s) / (s.x.dtype != torch.bfloat16)


@broken(r"It raised AttributeError .* when this was looked at: B's gradient has B's shape", "...")
@rule
class Raises(Sound):
    def backward_grad(self, s):
        return s.no_such_thing
