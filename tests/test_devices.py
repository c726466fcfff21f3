"""Devices. On the CPU: what a step may not do that is to run on a GPU. On a GPU, where one is: the same training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import aln.data.encoded
import aln.data.source
from aln.build import Run, build, evaluate_test, resume
from aln.config import parse_run
from aln.conversion import align
from aln.data import ImageSource, InMemory, Split, imagenet
from aln.devices import find_device, lent_generators, sent, wide
from aln.engine import EpochResult, fit
from aln.engine.randomness import _kernels, reproducible
from aln.engine.step import Stepper
from aln.errors import AlnError
from aln.rules import RULES
from aln.world import ALONE
from small_network import net
from written_images import images as jpegs
from written_images import write_folders

PRESENT = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
NEEDS = {"cuda": "needs a GPU of CUDA or ROCm, here is none", "mps": "needs an Apple GPU, here is none"}


def needs(device: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not PRESENT[device], reason=NEEDS[device])


on_every_gpu = pytest.mark.parametrize("device", [pytest.param(name, marks=needs(name)) for name in PRESENT])


def make(content: dict[str, Any], device: str = "cpu", **changes: Any) -> Run:
    compute = {**changes.pop("compute", {}), "device": device}
    return build(parse_run({**content, **changes, "compute": compute}))


def train(run: Run) -> list[EpochResult]:
    return list(fit(run.state, run.source, run.settings))


def numbers(results: list[EpochResult]) -> list[float]:
    return [number for r in results for number in (r.train_loss, r.train_top1, r.validation.loss, r.validation.top1)]


class Watched(TorchDispatchMode):
    """Shows every operator, and what it gives, to a function."""

    def __init__(self, look: Callable[[str, tuple[Any, ...], list[Tensor]], None]) -> None:
        super().__init__()
        self._look = look

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        outputs = result if isinstance(result, list | tuple) else [result]
        self._look(operator.overloadpacket.__name__, args, [out for out in outputs if isinstance(out, Tensor)])
        return result


# What makes the process wait for a GPU: values, and sizes that depend on values.
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "bincount"}


def waits(name: str, args: tuple[Any, ...]) -> bool:
    chosen = args[1] if name in ("index", "index_put_") else ()
    return name in _READS or any(index is not None and index.dtype == torch.bool for index in chosen)


STEPS = [
    {},
    {"accumulate": 2},
    {"clip": {"norm": 1.0}},
    {"clip": {"value": 0.1}},
    {"noise": {"variance": 1e-4}},
    {"optimizer": {"name": "adam", "lr": 0.01}},
    {"optimizer": {"name": "rmsprop", "lr": 0.01}},
    {"alternate_step_freq": 1},
    {"frozen_bn": True, "model": {"name": "resnet8"}, "data": {"name": "digits"}},
    {"compute": {"precision": "bfloat16"}},
]
NAMES = ["plain", "accumulate", "norm", "value", "noise", "adam", "rmsprop", "alternate", "frozen_bn", "bfloat16"]


def take_steps(run: Run, count: int = 3) -> Iterator[None]:
    """Steps one by one on the same batch."""
    stepper = Stepper(run.state, run.state.model, run.settings, ALONE)
    images, labels = next(run.source.to(device_of(run)).train_batches(run.settings.batch_size, 0))
    for _ in range(count):
        stepper.gradients(images, labels, stepper.begin(10))
        stepper.update()
        run.state.step += 1
        yield


def device_of(run: Run) -> torch.device:
    return next(run.state.model.parameters()).device


def reads(steps: Callable[[], object]) -> list[str]:
    found: list[str] = []
    with Watched(lambda name, args, _: found.append(name) if waits(name, args) else None):
        steps()
    return found


@pytest.mark.parametrize("rule", list(RULES))
def test_no_rule_reads_a_value_in_a_step(small_run: dict[str, Any], rule: str) -> None:
    run = make(small_run, rule={"name": rule}, model={"name": "resnet8"}, data={"name": "digits"})
    assert not reads(lambda: list(take_steps(run)))


@pytest.mark.parametrize("changes", STEPS, ids=NAMES)
def test_no_recipe_reads_a_value_in_a_step(small_run: dict[str, Any], changes: dict[str, Any]) -> None:
    run = make(small_run, **changes)
    assert not reads(lambda: list(take_steps(run)))


def test_an_epoch_reads_the_loss_only(small_run: dict[str, Any]) -> None:
    """Once a step on the CPU, where it costs nothing and divergence ends the run at once."""
    run = make(small_run, epochs=1, alignment={"every": 0})
    steps = run.source.steps_per_epoch(run.settings.batch_size)
    results: list[EpochResult] = []
    found = reads(lambda: results.extend(fit(run.state, run.source, run.settings)))
    after = 2 + 3 + 1 + 1 + len(results[0].angles)  # sums, the evaluation's sums and count, whether weights are finite
    assert found == ["_local_scalar_dense"] * len(found)
    assert steps < len(found) <= steps + after


def test_the_watch_sees_what_it_looks_for() -> None:
    assert reads(lambda: float(torch.ones(()))) == ["_local_scalar_dense"]
    assert reads(lambda: torch.ones(3)[torch.ones(3) > 0]) == ["index"]
    assert reads(lambda: torch.ones(3)[torch.tensor([0, 2])]) == []


@pytest.mark.parametrize("rule", list(RULES))
def test_nothing_is_float64_where_a_device_has_none(
    small_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    assert wide(torch.device("mps")) == torch.float32
    for module in ("alignment", "angles", "engine.training", "engine.evaluation"):
        monkeypatch.setattr(f"aln.{module}.wide", lambda device: wide(torch.device("mps")))
    changes: dict[str, Any] = {"rule": {"name": rule}, "model": {"name": "resnet8"}, "epochs": 1}
    changes |= {"data": {"name": "digits", "shift": 1}, "alignment": {"every": 1}, "pretraining": {"steps": 1}}
    run = make(small_run, **changes)
    found: list[str] = []
    with Watched(lambda name, args, out: found.extend(name for tensor in out if tensor.dtype == torch.float64)):
        train(run)
        evaluate_test(run)
    assert not found


@pytest.mark.parametrize("rule", list(RULES))
def test_no_rule_mixes_devices(rule: str) -> None:
    """On the device without memory, which takes no other's tensors and has no values to be read."""
    model = align(net(), RULES.get(rule)(), output="4").to("meta")
    model(torch.empty(6, 3, 8, 8, device="meta")).square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    assert trained
    assert {parameter.grad.device.type for parameter in trained} == {"meta"}


def in_memory() -> ImageSource:
    def split(count: int) -> Split:
        return Split(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))

    standard = (torch.zeros(3), torch.ones(3))
    return InMemory(split(32), split(8), split(8), num_classes=3, shift=1, flip=True, standard=standard)


@pytest.fixture(params=["in memory", "resnet", "inception"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSource:
    if request.param == "in memory":
        return in_memory()
    for split, count in (("train", 32), ("val", 8)):
        write_folders(tmp_path / split, jpegs(count, 2), ["cat", "dog"])
    return imagenet(root=str(tmp_path), preparation=request.param, size=16, loaders=0)


def test_batches_are_sent_in_a_way_that_does_not_wait(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first batch of an epoch all that goes to the device goes through `sent`."""
    sending = 0

    def noted(tensor: Tensor, device: torch.device) -> Tensor:
        nonlocal sending
        sending += 1
        moved = sent(tensor, device)
        sending -= 1
        return moved

    monkeypatch.setattr(aln.data.source, "sent", noted)
    monkeypatch.setattr(aln.data.encoded, "sent", noted)
    found: list[str] = []

    class Arrivals(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            given = any(isinstance(arg, Tensor) and arg.device.type == "cpu" for arg in args)
            made = function in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
            if isinstance(result, Tensor) and result.is_meta and (given or made) and not sending:
                found.append(str(function))
            return result

    batches = source.to(torch.device("meta")).train_batches(8, 0)
    images, labels = next(batches)
    assert (images.device.type, labels.device.type) == ("meta", "meta")
    with Arrivals():
        assert len(list(batches)) >= 2
    assert not found


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", not deterministic)
    tf32, memory = torch.backends.cudnn.conv.fp32_precision, torch.utils.deterministic
    with _kernels(deterministic):
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.is_deterministic_algorithms_warn_only_enabled() is deterministic
        assert torch.backends.cudnn.deterministic is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
        assert torch.backends.cudnn.conv.fp32_precision == tf32
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if deterministic else None)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic is not deterministic
    assert not torch.backends.cudnn.benchmark
    assert memory.fill_uninitialized_memory
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_what_the_user_chose_for_cublas_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with _kernels(deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_the_cpu_needs_no_kernels_of_its_own() -> None:
    with reproducible(torch.device("cpu"), deterministic=True):
        assert not torch.are_deterministic_algorithms_enabled()


def test_generators_of_the_cpu_are_lent() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with lent_generators(torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


def test_xla_without_torch_xla_is_refused_with_what_is_missing(small_run: dict[str, Any]) -> None:
    try:
        import torch_xla  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("torch_xla is here: tests/test_xla.py runs it")
    message = r"compute\.device is 'xla', which needs torch_xla .*torch_xla 2\.9 with torch 2\.9.*here is torch \d"
    with pytest.raises(AlnError, match=message):
        make(small_run, "xla")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_whether_kernels_are_fused_is_not_for_the_checkpoint_to_say(
    small_run: dict[str, Any], optimizer: str, tmp_path: Path
) -> None:
    runs = [make(small_run, optimizer={"name": optimizer, "lr": 0.01}) for _ in range(2)]
    for group in runs[0].state.optimizer.param_groups:
        group["fused"] = False  # as on a device without
    next(fit(runs[0].state, runs[0].source, runs[0].settings))
    runs[0].state.begin_epoch(1)
    runs[0].state.save(tmp_path / "checkpoint.pt")
    resume(runs[1], tmp_path / "checkpoint.pt")
    assert all(group["fused"] for group in runs[1].state.optimizer.param_groups)
    assert numbers(train(runs[1])) == pytest.approx(numbers(train(runs[0])), rel=1e-5)


@on_every_gpu
@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_trains_as_on_the_cpu(small_run: dict[str, Any], device: str, rule: str) -> None:
    content = {**small_run, "rule": {"name": rule}, "alignment": {"every": 2}, "epochs": 2}
    content["compute"] = {"precision": "float32"}
    ours, theirs = make(content, device, compute=content["compute"]), make(content, compute=content["compute"])
    found, expected = train(ours), train(theirs)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-2, abs=1e-2)  # TF32
    assert found[-1].angles == pytest.approx(expected[-1].angles, abs=1.0)
    assert device_of(ours).type == device


@on_every_gpu
@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("rule", ["backprop", "information", "mirror", "direct_feedback"])
def test_convolutions_train_as_on_the_cpu(small_run: dict[str, Any], device: str, rule: str) -> None:
    changes: dict[str, Any] = {"rule": {"name": rule}, "model": {"name": "resnet8"}, "epochs": 1}
    changes |= {"data": {"name": "digits", "shift": 1}, "compute": {"precision": "float32"}}
    found, expected = train(make(small_run, device, **changes)), train(make(small_run, **changes))
    assert found[0].train_loss == pytest.approx(expected[0].train_loss, rel=2e-2)


@on_every_gpu
@pytest.mark.parametrize("rule", ["backprop", "information", "mirror"])
def test_bfloat16_trains(small_run: dict[str, Any], device: str, rule: str) -> None:
    changes: dict[str, Any] = {"rule": {"name": rule}, "compute": {"precision": "bfloat16"}}
    found, expected = train(make(small_run, device, **changes)), train(make(small_run, rule={"name": rule}))
    assert found[0].train_loss == pytest.approx(expected[0].train_loss, rel=0.05)
    assert found[-1].train_loss < found[0].train_loss


@on_every_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["backprop", "information", "brsf"])
def test_the_same_run_twice_is_bit_identical(small_run: dict[str, Any], device: str, rule: str, precision: str) -> None:
    """torch's warning of a kernel that is not deterministic would be an error here."""
    changes: dict[str, Any] = {"rule": {"name": rule}, "model": {"name": "resnet8"}, "noise": {"variance": 1e-6}}
    changes |= {"data": {"name": "digits", "shift": 1}, "compute": {"precision": precision}, "epochs": 2}
    first, second = make(small_run, device, **changes), make(small_run, device, **changes)
    results = numbers(train(first))
    torch.rand(7, device=device)  # what else happens in the process must not matter
    assert numbers(train(second)) == results
    for a, b in zip(first.state.model.parameters(), second.state.model.parameters(), strict=True):
        assert torch.equal(a, b)


@on_every_gpu
def test_the_generators_of_a_gpu_are_lent(small_run: dict[str, Any], device: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2, device=device)
    torch.manual_seed(3)
    train(make(small_run, device, rule={"name": "brsf"}, epochs=1))
    assert torch.equal(torch.rand(2, device=device), expected)


@on_every_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_checkpoint_goes_on_elsewhere(small_run: dict[str, Any], device: str, optimizer: str, tmp_path: Path) -> None:
    changes = {"optimizer": {"name": optimizer, "lr": 0.01}, "compute": {"precision": "float32"}}
    for before, after in ((device, "cpu"), ("cpu", device)):
        begun = make(small_run, before, **changes)
        next(fit(begun.state, begun.source, begun.settings))
        begun.state.begin_epoch(1)
        begun.state.save(tmp_path / "checkpoint.pt")
        resumed = make(small_run, after, **changes)
        resume(resumed, tmp_path / "checkpoint.pt")
        expected = numbers(train(make(small_run, after, **changes)))
        assert numbers(train(resumed)) == pytest.approx(expected[4:], rel=2e-2, abs=1e-2)


@needs("cuda")
@pytest.mark.parametrize("rule", list(RULES))
def test_a_step_does_not_wait_for_the_gpu(small_run: dict[str, Any], rule: str) -> None:
    changes: dict[str, Any] = {"rule": {"name": rule}, "model": {"name": "resnet8"}}
    run = make(small_run, "cuda", data={"name": "digits", "shift": 1}, **changes)
    steps = take_steps(run)
    next(steps)  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs("cuda")
def test_batches_do_not_wait_for_the_gpu(source: ImageSource) -> None:
    batches = source.to(torch.device("cuda")).train_batches(8, 0)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) >= 2
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs("cuda")
def test_a_gpu_is_given_back_its_number_types(small_run: dict[str, Any]) -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    train(make(small_run, "cuda", epochs=1))
    assert torch.backends.cudnn.conv.fp32_precision == before
