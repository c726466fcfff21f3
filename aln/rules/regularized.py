"""Rules whose B descends primitives. α, β, γ weigh different ones in different rules, as in arXiv 2003.01513."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from aln.errors import RuleError
from aln.primitives import PRIMITIVES
from aln.rules.base import RULES, RegularizedRule
from aln.signals import Signals


@RULES.register("symmetric")
@dataclass(frozen=True, kw_only=True)
class SymmetricAlignment(RegularizedRule):
    """Symmetric alignment: α decay + β self pulls B straight to W (non-local: it reads W)."""

    source: ClassVar[str] = "arXiv 2003.01513, section 3.2"
    alpha: float = 1e-3
    beta: float = 2e-3

    def weights(self) -> Mapping[str, float]:
        return {"decay": self.alpha, "self": self.beta}


@RULES.register("activation")
@dataclass(frozen=True, kw_only=True)
class ActivationAlignment(RegularizedRule):
    """Activation alignment: α sparse + β amp matches project(x, B) to project(x, W)."""

    source: ClassVar[str] = "arXiv 2003.01513, section 3.2"
    alpha: float = 1e-3
    beta: float = 2e-3

    def weights(self) -> Mapping[str, float]:
        return {"sparse": self.alpha, "amp": self.beta}


@RULES.register("mirror")
@dataclass(frozen=True, kw_only=True)
class WeightMirror(RegularizedRule):
    """Weight mirror: α decay + β amp, usually on noise input (`input_distribution: normal`)."""

    source: ClassVar[str] = "Akrout et al. 2019, arXiv 1904.05391; arXiv 2003.01513, section 3.1"
    alpha: float = 1e-3
    beta: float = 1e-3

    def weights(self) -> Mapping[str, float]:
        return {"decay": self.alpha, "amp": self.beta}


@RULES.register("information")
@dataclass(frozen=True, kw_only=True)
class InformationAlignment(RegularizedRule):
    """Information alignment: α amp + β null + γ decay, the local rule that needs no noise.

    Attributes:
        use_sparse: γ weighs sparse in place of decay.
    """

    source: ClassVar[str] = "arXiv 2003.01513, section 3.1"
    alpha: float = 2e-3
    beta: float = 1e-3
    gamma: float = 1e-3
    use_sparse: bool = False

    def weights(self) -> Mapping[str, float]:
        return {"amp": self.alpha, "null": self.beta, "sparse" if self.use_sparse else "decay": self.gamma}


@RULES.register("kolen_pollack")
@dataclass(frozen=True, kw_only=True)
class KolenPollack(RegularizedRule):
    """Kolen-Pollack: B shares W's task gradient, and α decay lets their difference die out."""

    shares_task_gradient: ClassVar[bool] = True
    source: ClassVar[str] = "Kolen & Pollack 1994; arXiv 1904.05391, section 4"
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align_every > 1:
            raise RuleError(f"align_every = {self.align_every}: expected 1, B shares every step's gradient of W")

    def weights(self) -> Mapping[str, float]:
        return {"decay": self.alpha}

    def local_gradients(self, s: Signals) -> tuple[Tensor | None, Tensor | None]:
        assert s.dW is not None
        if not s.rate:
            return s.dW.clone(), None
        dB, dW = super().local_gradients(s)
        if s.rate != 1:
            dB, dW = (None if gradient is None else gradient.mul_(s.rate) for gradient in (dB, dW))
        return s.dW.clone() if dB is None else dB.add_(s.dW), dW

    @property
    def learns_without_task(self) -> bool:
        return True


@RULES.register("primitives")
@dataclass(frozen=True, kw_only=True)
class WeightedPrimitives(RegularizedRule):
    """Weighted primitives: any weighting of decay, self, amp, sparse and null, for rules that nobody has named yet."""

    source: ClassVar[str] = "arXiv 2003.01513, section 3"
    decay: float = 1e-3
    self: float = 0.0
    amp: float = 1e-3
    sparse: float = 0.0
    null: float = 0.0

    def weights(self) -> Mapping[str, float]:
        return {name: getattr(self, name) for name in PRIMITIVES}
