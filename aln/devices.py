"""Where devices differ: what is there, random generators, number types, and when work that was asked for is done.

| device | what it is | generators | widest type | kernels run |
|---|---|---|---|---|
| `cpu` | this machine's cores | the global one | float64 | when they are called |
| `cuda` | a GPU by CUDA or ROCm | the global one, and one a GPU | float64 | soon after; reading a value waits |
| `mps` | the GPU of an Apple computer | the global one, and its own | float32 | soon after; reading a value waits |
| `xla` | a TPU, by torch_xla (`PJRT_DEVICE`) | the global one, and a seed | float64 | at `cut`, as one program |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from aln.errors import AlnError

# Accelerators that one is taken of unasked, the first that is there. Not xla: torch_xla takes seconds to import, and
# a TPU belongs to one process.
_BY_ITSELF = ("cuda", "mps")


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is a CUDA GPU if there is one, else Apple's, else the CPU.

    Raises `AlnError` naming what is missing if this machine does not have it.
    """
    if name == "xla":
        return _xla_device()
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((device for device in _BY_ITSELF if present[device]), "cpu")
    if not present[name]:
        here = ", ".join(device for device, is_here in present.items() if is_here)
        raise AlnError(f"compute.device is '{name}', which this machine does not have (it has: {here})")
    return torch.device(name)


def _xla_device() -> torch.device:
    try:
        import torch_xla
    except ImportError as error:  # not there, or made for another torch
        raise AlnError(
            "compute.device is 'xla', which needs torch_xla and the torch that it was made for (torch_xla 2.9 with "
            f"torch 2.9: pip install 'aln[xla]'); here is torch {torch.__version__}: {error}"
        ) from error
    try:
        device: torch.device = torch_xla.device()
        # torch counts its devices at the first gradient of a process, and takes no other afterwards.
        torch.zeros((), device=device, requires_grad=True).backward()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise AlnError(
            "compute.device is 'xla', which does not start (PJRT_DEVICE says what torch_xla drives; a process that "
            f"computed gradients elsewhere first cannot take it): {reason}"
        ) from error
    return device


def wide(device: torch.device) -> torch.dtype:
    """The type in which much is added up: the widest that the device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def fuses(device: torch.device) -> bool:
    """Whether torch's optimizers have fused kernels there."""
    return device.type != "xla"


def lays_out(device: torch.device) -> bool:
    """Whether `channels_last` helps convolutions. XLA lays out tensors itself; on MPS some versions of torch convolve
    some such tensors wrongly (pytorch issue 180984).
    """
    return device.type in ("cpu", "cuda")


def cut(device: torch.device) -> None:
    """The end of a piece of work that will come again in the same shape, such as a step.

    XLA runs what was asked for since the last cut as one program, compiled once for each shape; this process does not
    wait. Elsewhere nothing happens.
    """
    if device.type == "xla":
        import torch_xla

        torch_xla.sync()


def seed_generators(device: torch.device, seed: int) -> None:
    """Seeds the global generators that draw for what is computed on the device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    elif device.type == "xla":
        _xla().set_rng_state(seed, device)


def own_generator(device: torch.device, seed: int) -> torch.Generator | None:
    """A generator apart from the global ones. None on XLA, which has but one: that one is seeded in its place."""
    if device.type == "xla":
        _xla().set_rng_state(seed, device)
        return None
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def lent_generators(device: torch.device) -> Iterator[None]:
    """Lends out the global generators that draw for what is computed on the device: afterwards they are as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "mps":
            state: Any = torch.mps.get_rng_state()
        elif device.type == "xla":
            state = _xla().get_rng_state(device)
        try:
            yield
        finally:
            if device.type == "mps":
                torch.mps.set_rng_state(state)
            elif device.type == "xla":
                _xla().set_rng_state(state, device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU's tensor on the device; its memory is free for other use.

    CUDA copies while this process goes on, if from memory that stays in place; from any other, the process would wait
    until the GPU has done all that it was asked before.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _xla() -> Any:
    import torch_xla.core.xla_model

    return torch_xla.core.xla_model
