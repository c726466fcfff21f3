"""Whole ResNets against the original: logits, the three parts of the loss, gradients, and steps of momentum SGD.

How close two correct computations come is bounded by ReLUs whose input lies within float32 rounding of zero: they
let the gradient through in one and not in the other, and everything below changes by about a per cent of itself. In
the ResNet-18 v2 case there are five such units; with these five switched, and no others, float64 agrees with all of
the original's gradient samples to 5e-5 of their root mean square, without it to 3e-2. ResNet-50, where rounding reaches
5e-5 of the logits, has too many to single out; there the same cause is inferred from the size of what rounding changes.
The other three cases agree to 4e-5 as they are. So each bound is widened to a few times what our own numbers change
when the images are moved by float32 rounding, which changes next to nothing in those three.

The original's losses after a step carry more than rounding: its information and Kolen-Pollack cases start from the same
weights and gradients of W, so their cross-entropy after one step must be the same, and differs by 4e-4. Probably
its step reads kernels that it is just updating, which matters where those that carry the error down learn fast:
W under backprop (letting a single layer read the updated W moves the loss by up to 0.06; the original's is off by
0.008, 1.1e-3 of the loss at first) and B under Kolen-Pollack. Under information it agrees to 1.3e-5, under symmetric to
1e-7.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aln.conversion import align
from aln.layers import aligned_layers
from aln.models import MODELS
from aln.models.resnet import ResNet
from aln.models.tensorflow_names import tensorflow_variables
from aln.optim import SGD, parameter_groups
from golden_comparison import Comparison, GoldenError, lacking, rule_of

WEIGHT_DECAY = 1e-4
SCALARS = ("cross_entropy", "reg_loss", "alignment_loss")
BOUNDS = {"logits": 1e-5, **dict.fromkeys(SCALARS, 1e-5), "gradient norms": 1e-3, "gradient samples": 5e-3}
STEP_1, LATER_STEPS = 2e-3, 0.02
ROUNDING = 1e-6  # relative, of each pixel: changes the logits by about as much as the original's differ from float64
DRAWS = 3  # of that rounding: a single loss may happen to change little (in v1-50 by 0.006 to 0.12 over six draws)
SPREAD = 3


def initial_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 value that the golden runs gave a variable, a function of its TensorFlow name."""
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(shape).astype(np.float32)
    role = name.rpartition("/")[2]
    if role in ("forward_kernel", "backward_kernel"):
        inputs = shape[1] if len(shape) == 2 and role == "backward_kernel" else np.prod(shape[:-1])
        return z * np.float32(np.sqrt((2 if len(shape) == 4 else 0.1) / inputs))
    if role in ("gamma", "moving_variance"):
        return 1 + np.float32(0.1) * (np.abs(z) if role == "moving_variance" else z)
    return np.float32(0.1) * z


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a network gave. Gradients are of the sum of the three scalars, in the order of the golden list.

    Attributes:
        logits: [N, classes].
        scalars: [steps, 3], before each step.
        norms: of each variable's gradient [variables].
        samples: entries of each variable's gradient [variables, 8], in units of its golden root mean square.
    """

    logits: np.ndarray
    scalars: np.ndarray
    norms: np.ndarray
    samples: np.ndarray

    def errors(self, golden: Measurement) -> dict[str, float]:
        """Largest relative error of every quantity; of steps whose golden scalars are finite.

        A scalar after a step is compared relative to itself or to what it was at first, whichever is larger.
        """
        steps = min(len(self.scalars), len(golden.scalars))
        scale = np.maximum(np.abs(golden.scalars[:steps]), np.abs(golden.scalars[0]))
        scalars = np.abs(self.scalars[:steps] - golden.scalars[:steps]) / np.where(scale == 0, 1, scale)
        errors = {
            "logits": np.abs(self.logits - golden.logits).max() / np.abs(golden.logits).max(),
            **dict(zip(SCALARS, scalars[0], strict=True)),
            "gradient norms": relative(self.norms, golden.norms).max(),
            "gradient samples": np.abs(self.samples - golden.samples).max(),
        }
        for step in range(1, steps):
            if np.isfinite(golden.scalars[step]).all():
                errors[f"step {step}"] = scalars[step].max()
        return {quantity: float(error) for quantity, error in errors.items()}


class ModelCase:
    """One golden network with its images [2, 3, size, size] and labels."""

    def __init__(
        self, case: Mapping[str, Any], arrays: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32
    ) -> None:
        self.case = case
        self.dtype = dtype
        if f"{case['id']}/logits" not in arrays:
            raise GoldenError(f"models.npz: case {case['id']} has no array 'logits'")
        self.logits = arrays[f"{case['id']}/logits"]
        size = case["image_size"]
        images = np.random.RandomState(7).standard_normal((case["batch"], size, size, 3)).astype(np.float32)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype).contiguous()
        self.labels = torch.tensor(case["labels"])

    @property
    def name(self) -> str:
        """The model's name in `aln.models`."""
        return f"resnet{self.case['depth']}" + ("v2" if self.case["model"] == "v2" else "")

    def compare(self) -> Iterator[Comparison]:
        """Every quantity of the case; or what the rule lacks to compute it."""
        identity = {"case": f"model {self.case['id']}", "rule": f"{self.case['rule']}, {self.name}"}
        if missing := lacking(self.case):
            yield Comparison(**identity, quantity="all", missing=", ".join(missing))
            return
        ours = self.measure(self.images, len(self.case["trajectory"]))
        roundings = [self._rounded(seed).errors(ours) for seed in range(DRAWS)]
        for quantity, error in ours.errors(self.golden()).items():
            bound = BOUNDS.get(quantity, STEP_1 if quantity == "step 1" else LATER_STEPS)
            allowed = max(bound, SPREAD * max(rounding[quantity] for rounding in roundings))
            yield Comparison(**identity, quantity=quantity, error=error, allowed=allowed)

    def _rounded(self, seed: int) -> Measurement:
        """Our numbers with every pixel moved by rounding."""
        noise = torch.randn(self.images.shape, generator=torch.Generator().manual_seed(seed)).to(self.images)
        return self.measure(self.images * (1 + ROUNDING * noise), len(self.case["trajectory"]))

    def golden(self) -> Measurement:
        """The original's numbers."""
        gradients = self.case["gradients"].values()
        scalars = [[self.case["scalars"][name] for name in SCALARS], *self.case["trajectory"][1:]]
        return Measurement(
            logits=self.logits,
            scalars=np.array(scalars, np.float64),
            norms=np.array([gradient["l2"] for gradient in gradients]),
            samples=np.stack([np.array(gradient["value"]) / root_mean_square(gradient) for gradient in gradients]),
        )

    def measure(self, images: Tensor, steps: int) -> Measurement:
        """Our numbers: a network with the golden initial values, trained so that there are `steps` rows of scalars."""
        model, settings = self.network(), self.case["optimizer"]
        inputs = record_inputs(model)
        optimizer = SGD(
            lr=settings["lr"], momentum=settings["momentum"], nesterov=settings["nesterov"], weight_decay=WEIGHT_DECAY
        ).build(model)
        decaying: list[Tensor] = parameter_groups(model, WEIGHT_DECAY)[0]["params"]  # type: ignore[assignment]
        rows: list[list[float]] = []
        for step in range(steps):
            logits = model(images)
            loss = F.cross_entropy(logits, self.labels)
            decay = sum(float(p.detach().double().square().sum()) for p in decaying) * WEIGHT_DECAY / 2
            rows.append([loss.item(), decay, alignment_loss(model, inputs)])
            if step == 0:
                first = logits.detach().numpy().copy()
            if step == steps - 1:
                break
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                norms, samples = self._gradients(model, set(decaying))
            optimizer.step()
        return Measurement(logits=first, scalars=np.array(rows), norms=norms, samples=samples)

    def network(self) -> ResNet:
        """The aligned network with the golden initial values."""
        model = MODELS.get(self.name)(tuple(self.images.shape[1:]), self.case["classes"])
        model = align(model, rule_of(self.case)).to(self.dtype)
        variables = tensorflow_variables(model)
        theirs = {name: tuple(shape) for name, shape in self.case["variables"].items()}
        if self.case["rule"] == "backprop":  # the original keeps backward kernels there too, and does not use them
            theirs = {name: shape for name, shape in theirs.items() if not name.endswith("/backward_kernel")}
        if theirs != {v.name: v.shape for v in variables}:
            raise GoldenError(f"models.json: case {self.case['id']}: the variables are not those of {self.name}")
        state = {v.key: v.from_tensorflow(initial_value(v.name, v.shape)) for v in variables}
        model.load_state_dict(state, strict=False)
        return model

    def _gradients(self, model: ResNet, decaying: set[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Norms and samples; weight decay is the optimizer's affair here, and part of the loss in the original."""
        variables = {v.name: v for v in tensorflow_variables(model)}
        norms, samples = [], []
        for name, golden in self.case["gradients"].items():
            gradient = np.zeros(golden["shape"])
            if name in variables:
                parameter = model.get_parameter(variables[name].key)
                if parameter.grad is not None:
                    ours = parameter.grad + (WEIGHT_DECAY * parameter.detach() if parameter in decaying else 0)
                    gradient = variables[name].to_tensorflow(ours.double())
            norms.append(np.linalg.norm(gradient))
            samples.append(gradient.ravel()[golden["index"]] / root_mean_square(golden))
        return np.array(norms), np.stack(samples)


def alignment_loss(model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """The sum of all layers' regularizers at the inputs they had."""
    losses = [layer.alignment_loss(inputs[name]) for name, layer in aligned_layers(model).items()]
    return sum(loss.item() for loss in losses if loss is not None)


def record_inputs(model: nn.Module) -> dict[str, Tensor]:
    """A mapping that holds the last input of every aligned layer after each forward pass."""
    inputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Any:
        return lambda layer, arguments: inputs.update({name: arguments[0].detach()})

    for name, layer in aligned_layers(model).items():
        layer.register_forward_pre_hook(recorder(name))
    return inputs


def root_mean_square(gradient: Mapping[str, Any]) -> float:
    """Of a golden gradient; 1 where it is zero."""
    return float(gradient["l2"] / np.sqrt(np.prod(gradient["shape"]))) or 1.0


def relative(ours: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """Each entry's error relative to the golden entry; the error itself where that is 0."""
    return np.abs(ours - golden) / np.where(golden == 0, 1, np.abs(golden))
