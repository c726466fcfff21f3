"""From configuration to objects: devices, seeds, cached data, and which checkpoints a run continues from."""

import pytest
import torch
from torch import nn

from aln.build import build, build_model, choose_precision, evaluate_test, load_data, resume
from aln.checkpoint import TrainState
from aln.config import Compute, RunConfig, parse_run
from aln.devices import find_device
from aln.errors import AlnError, CheckpointError
from aln.layers import AlignedConv2d, AlignedLinear, aligned_layers
from aln.optim import Cosine
from aln.rules import RULES

CPU = torch.device("cpu")


def config(**changes) -> RunConfig:
    """A run of seconds: a small net on a few random images."""
    content = {
        "rule": "feedback",
        "model": {"name": "resnet8", "width": 4},
        "data": {"name": "synthetic", "train": 16, "validation": 8, "test": 7, "image_size": 8, "num_classes": 3},
        "compute": {"device": "cpu"},
        "batch_size": 4,
    }
    return parse_run({**content, **changes})


def weights(model: nn.Module, backward: bool = True) -> dict[str, torch.Tensor]:
    return {
        key: value
        for key, value in model.state_dict().items()
        if backward or not key.endswith(("backward_weight", "fixed_feedback"))
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_holds_what_the_configuration_names():
    run = build(
        config(
            schedule={"warmup_epochs": 2}, epochs=4, label_smoothing=0.1, seed=3, alignment={"every": 7, "images": 9}
        )
    )
    layers = aligned_layers(run.state.model)
    assert {type(layer) for layer in layers.values()} == {AlignedConv2d, AlignedLinear}
    assert {layer.rule for layer in layers.values()} == {RULES.get("feedback")()}
    assert layers["head"].weight.shape == (3, 16)
    assert run.settings.schedule == Cosine(warmup_epochs=2)
    assert (run.settings.epochs, run.settings.batch_size, run.settings.seed) == (4, 4, 3)
    assert run.settings.label_smoothing == 0.1
    assert (run.settings.alignment_every, run.settings.alignment_images) == (7, 9)
    assert run.state.epoch == 0
    assert isinstance(run.state.optimizer, torch.optim.SGD)


def test_the_optimizer_holds_the_models_own_parameters():
    state = build(config(rule="symmetric")).state
    held = {id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in state.model.parameters()}


def test_the_model_lies_on_the_device_in_the_layout_asked_for():
    for channels_last in (True, False):
        model = build(config(compute={"device": "cpu", "channels_last": channels_last})).state.model
        assert {parameter.device for parameter in model.parameters()} == {CPU}
        weight = model.groups[1][0].convs[1].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_initial_weights_depend_on_the_seed_alone():
    first = weights(build(config(seed=1)).state.model)
    torch.manual_seed(99)
    torch.rand(3)
    assert same(weights(build(config(seed=1, epochs=7, batch_size=8)).state.model), first)
    assert not same(weights(build(config(seed=2)).state.model), first)


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_starts_from_the_same_forward_weights(rule):
    reference = build(config(rule="backprop")).state.model
    assert same(weights(build(config(rule=rule)).state.model, backward=False), weights(reference))


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    run = config()
    build(run)
    build_model(run, load_data(run.data))
    assert torch.equal(torch.get_rng_state(), before)


def test_data_are_loaded_once_per_process():
    source = load_data(config().data)
    assert load_data(config(seed=5).data) is source
    assert build(config(rule="backprop")).source is source
    other = load_data(config(data={"name": "synthetic", "train": 17, "image_size": 8}).data)
    assert len(other.train) == 17


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_absent_device_is_refused(device):
    message = rf"compute\.device is '{device}', which this machine does not have \(it has: cpu\)"
    with pytest.raises(AlnError, match=message):
        find_device(device)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_an_accelerator_it_is_the_cpu(device):
    assert find_device(device) == CPU


def test_auto_takes_the_accelerator_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == torch.device("cuda")
    assert find_device("cpu") == CPU


@pytest.mark.parametrize(
    ("precision", "device", "native", "expected"),
    [
        ("auto", "cpu", True, "float32"),
        ("auto", "mps", True, "float32"),
        ("auto", "xla", True, "float32"),
        ("auto", "cuda", True, "bfloat16"),
        ("auto", "cuda", False, "float32"),  # a GPU that would emulate it
        ("bfloat16", "cpu", False, "bfloat16"),
        ("float32", "cuda", True, "float32"),
    ],
)
def test_precision(monkeypatch, precision, device, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert choose_precision(Compute(precision=precision), torch.device(device)) == expected


def test_a_run_on_the_cpu_computes_in_float32():
    assert build(config()).settings.precision == "float32"


def test_the_test_split_is_evaluated_whole():
    result = evaluate_test(build(config()))
    assert result.examples == 7
    assert 0 <= result.top1 <= 100


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of `config()` with other weights than the initial ones, after 3 epochs."""
    state = build(config()).state
    with torch.no_grad():
        state.model.head.bias.fill_(7)
    state.epoch = 3
    path = tmp_path / "checkpoint.pt"
    state.save(path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checkpoint": {"every": 2, "steps": 7}},
        {"alignment": {"every": 1, "images": 8}},
        {"resources": {"workers": 2, "cpus": 2, "gpus": 0.5}},
        {"compute": {"device": "cpu", "channels_last": False, "deterministic": False, "precision": "bfloat16"}},
    ],
)
def test_a_run_continues_its_own_checkpoint(checkpoint, changes):
    run = build(config(**changes))
    resume(run, checkpoint)
    assert run.state.epoch == 3
    assert bool((run.state.model.head.bias == 7).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"epochs": 30}, "epochs was 20 and is 30"),
        ({"rule": "backprop"}, "rule.name was 'feedback' and is 'backprop'"),
        ({"rule": "mirror"}, "rule.alpha was None and is 0.001"),
        ({"optimizer": {"lr": 0.2}}, "optimizer.lr was 0.1 and is 0.2"),
        ({"model": {"name": "resnet8", "width": 8}}, "model.width was 4 and is 8"),
    ],
)
def test_the_checkpoint_of_another_configuration_is_refused_by_the_changed_key(checkpoint, changes, message):
    run = build(config(**changes))
    before = {key: value.clone() for key, value in weights(run.state.model).items()}
    with pytest.raises(CheckpointError, match="belongs to another configuration") as caught:
        resume(run, checkpoint)
    assert message in str(caught.value)
    assert run.state.epoch == 0
    assert same(weights(run.state.model), before)


def test_every_changed_key_is_named(checkpoint):
    with pytest.raises(CheckpointError, match=r"batch_size was 4 and is 8; seed was 0 and is 1$"):
        resume(build(config(seed=1, batch_size=8)), checkpoint)


def test_a_missing_or_broken_checkpoint_is_named(tmp_path):
    run = build(config())
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint"):
        resume(run, tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.pt: not a readable checkpoint"):
        resume(run, tmp_path / "broken.pt")


def test_a_checkpoint_whose_configuration_is_not_understood_is_named(tmp_path):
    state = build(config()).state
    path = tmp_path / "old.pt"
    TrainState(state.model, state.optimizer, description={"an_option_of_old": 1}).save(path)
    with pytest.raises(CheckpointError, match=r"old\.pt"):
        resume(build(config()), path)
