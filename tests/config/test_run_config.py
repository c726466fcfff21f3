"""The configuration of a run: defaults, presets, strictness, and all errors of a file at once."""

import math
import pickle
import re

import pytest
from pydantic import ValidationError

from aln.config import check_run, parse_document, parse_run, preset_names, read_run, with_settings
from aln.data import DATA
from aln.errors import ConfigError
from aln.models import MODELS
from aln.optim import OPTIMIZERS, SCHEDULES
from aln.rules import RULES, LearningRule


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError, match=r"^f\.yaml") as caught:
        parse_run(parse_document(text, "f.yaml"))
    return [str(problem) for problem in caught.value.problems]


def test_defaults():
    flat = parse_run({}).flat()
    assert flat == {
        "rule.name": "backprop",
        "model.name": "resnet8",
        "model.width": 16,
        "data.name": "digits",
        "data.shift": 0,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.1,
        "optimizer.reference_batch": None,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 1e-4,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": 0.0,
        "epochs": 20,
        "batch_size": 64,
        "accumulate": 1,
        "alignment_optimizer": None,
        "alignment_schedule": None,
        "label_smoothing": 0.0,
        "sync_batch_norm": False,
        "seed": 0,
        "pretraining.steps": 0,
        "pretraining.lr": None,
        "delay_epochs": 0.0,
        "alternate_step_freq": 0,
        "rates.loss": 1.0,
        "rates.alignment": 1.0,
        "rates.drops": [],
        "rates.gamma": 0.1,
        "noise.variance": 0.0,
        "noise.distribution": "normal",
        "noise.part": "all",
        "clip.norm": None,
        "clip.value": None,
        "frozen_bn": False,
        "alignment.every": 10,
        "alignment.images": 32,
        "checkpoint.every": 5,
        "checkpoint.steps": None,
        "checkpoint.keep_last": 2,
        "checkpoint.keep_best": 1,
        "compute.device": "auto",
        "compute.precision": "auto",
        "compute.channels_last": True,
        "compute.deterministic": True,
        "resources.workers": 1,
        "resources.cpus": 1,
        "resources.gpus": 0.0,
        "resources.restarts": 3,
    }


# What the paper's studies ask for: values that are not known to us.
STUDIES = {
    "alternating_steps": ["alternate_step_freq=2"],
    "delayed_task": ["delay_epochs=1.5"],
    "information_tpe": ["rule.alpha=1e-3", "rule.beta=1e-3", "rule.gamma=1e-3"],
    "noisy_updates": ["noise.variance=1e-4"],
    "wm_tpe": ["rule.alpha=1e-3", "rule.beta=1e-3", "rule.input_stddev=0.5"],
}
STUDIES["wm_tpe_ad"] = [*STUDIES["wm_tpe"], "alignment_optimizer.name=adam", "alignment_optimizer.lr=1e-3"]
STUDIES["wm_tpe_ad_ops"] = [
    *STUDIES["wm_tpe_ad"],
    *(f"rule.{option}=false" for option in ("center_input", "normalize_input", "batch_center_backward_input")),
    *(f"rule.activation_{way}=false" for way in ("forward", "backward")),
    *(f"rule.{how}_{way}_output=false" for how in ("center", "normalize") for way in ("forward", "backward")),
    "rule.batch_center_forward_output=false",
]


def test_there_is_a_preset_for_every_rule_and_for_the_papers_studies():
    assert preset_names() == sorted([*RULES, *STUDIES])


@pytest.mark.parametrize("name", list(RULES))
def test_every_preset_of_a_rule_parses(name):
    assert parse_run(read_run(name)).rule.name == name


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_asks_for_what_is_not_known_instead_of_inventing_it(name):
    with pytest.raises(ConfigError) as caught:
        parse_run(read_run(name))
    asked = {problem.key: problem.message for problem in caught.value.problems}
    assert asked.keys() == {setting.partition("=")[0] for setting in STUDIES[name]}
    assert all(re.match("is required: .* not known to us; set ", message) for message in asked.values())
    config = parse_run(with_settings(read_run(name), STUDIES[name]))
    assert config.flat()[STUDIES[name][0].partition("=")[0]] == pytest.approx(float(STUDIES[name][0].partition("=")[2]))


def test_sections_that_a_run_may_leave_out():
    assert parse_run({"rule": "mirror", "alignment_optimizer": {"lr": 0.5}}).alignment_optimizer.name == "sgd"
    config = parse_run({"rule": "mirror", "alignment_optimizer": "adam", "alignment_schedule": {"warmup_epochs": 1}})
    assert (config.alignment_optimizer.lr, config.alignment_schedule.name) == (1e-3, "cosine")
    assert parse_run({"alignment_optimizer": None}).alignment_optimizer is None
    assert messages("rule: mirror\nalignment_optimizer: {name: adam, lr: -1}\n") == [
        "f.yaml:2: alignment_optimizer: lr = -1.0: expected a number above 0"
    ]
    assert messages("alignment_optimizer: adm\n")[0].startswith("f.yaml:1: alignment_optimizer.name: unknown optimizer")


IN_FOLDERS = ("imagenet", "cifar10", "cifar100", "mnist")  # must be told where


@pytest.mark.parametrize(
    ("section", "name"),
    [(s, n) for s, known in (("rule", RULES), ("data", DATA), ("schedule", SCHEDULES), ("optimizer", OPTIMIZERS))
     for n in known if n not in IN_FOLDERS]
    + [("model", name) for name in MODELS if name != "torchvision"],
)  # fmt: skip
def test_every_registered_name_is_a_section_by_its_name_alone(section, name):
    assert getattr(parse_run({section: name}), section) == getattr(parse_run({section: {"name": name}}), section)


def test_torchvision_needs_a_builder():
    assert messages("model: torchvision\n") == ["f.yaml:1: model.builder: is required"]
    assert parse_run({"model": {"name": "torchvision", "builder": "resnet18"}}).model.builder == "resnet18"


def test_read_run_reads_files_and_refuses_what_is_neither(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 2\n")
    assert parse_run(read_run(str(path))).epochs == 2
    with pytest.raises(ConfigError, match=r"informaton: neither a file nor a preset; did you mean 'information'\?"):
        read_run("informaton")


BROKEN = """\
rule:
  name: informaton
model: {name: resnet8, widht: 3, width: x}
epochs: true
batch_sise: 3
label_smoothing: .nan
optimizer:
  lr: "x"
  momentum: true
seed: -1
compute: {device: gpu}
data: [1]
schedule:
  name: step
  drops:
  - 1
  - x
resources: {cpus: 1.5, gpu: 1}
"""


def test_all_errors_of_a_file_at_once():
    found = messages(BROKEN)
    expected = [
        "f.yaml:2: rule.name: unknown learning rule 'informaton'; did you mean 'information'? (known: activation, ak",
        "f.yaml:3: model.widht: unknown key; did you mean 'model.width'?",
        "f.yaml:3: model.width: is 'x': input should be a valid integer",
        "f.yaml:4: epochs: is True: input should be a valid integer",
        "f.yaml:5: batch_sise: unknown key; did you mean 'batch_size'?",
        "f.yaml:6: label_smoothing: is nan: input should be a finite number",
        "f.yaml:8: optimizer.lr: is 'x': input should be a valid number",
        "f.yaml:9: optimizer.momentum: is True: input should be a valid number",
        "f.yaml:10: seed: is -1: input should be greater than or equal to 0",
        "f.yaml:11: compute.device: is 'gpu': input should be 'auto', 'cpu', 'cuda', 'mps' or 'xla'",
        "f.yaml:12: data: is [1], expected a name, or a name and its options",
        "f.yaml:15: schedule.drops: is 'x': input should be a valid number",
        "f.yaml:18: resources.cpus: is 1.5: input should be a valid integer",
        "f.yaml:18: resources.gpu: unknown key; did you mean 'resources.gpus'?",
    ]
    for start in expected:
        assert sum(message.startswith(start) for message in found) == 1, (start, found)
    assert len(found) == len(expected)


def test_what_rule_optimizer_and_schedule_refuse_themselves_comes_at_once():
    text = "optimizer: {lr: -1}\nrule: {name: mirror, input_stddev: 0}\nschedule:\n  warmup_epochs: -1\n"
    assert sorted(messages(text)) == [
        "f.yaml:1: optimizer: lr = -1.0: expected a number above 0",
        "f.yaml:2: rule: input_stddev = 0.0: expected a number above 0",
        "f.yaml:3: schedule: warmup_epochs = -1.0: expected a number of at least 0",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: '3'", "epochs: is '3': input should be a valid integer"),
        ("epochs: 3.0", "epochs: is 3.0: input should be a valid integer"),
        ("epochs: 0", "epochs: is 0: input should be greater than or equal to 1"),
        ("epochs: null", "epochs: is None: input should be a valid integer"),
        ("label_smoothing: 1", "label_smoothing: is 1: input should be less than 1"),
        ("rule: {name: mirror, alpha: true}", "rule.alpha: is True: input should be a valid number"),
        ("rule: {name: mirror, alpha: x}", "rule.alpha: is 'x': input should be a valid number"),
        ("rule: {name: mirror, alpha: .nan}", "rule.alpha: is nan: input should be a finite number"),
        ("rule: {name: mirror, alpha: .inf}", "rule.alpha: is inf: input should be a finite number"),
        (
            "rule: {name: mirror, input_distribution: gauss}",
            "rule.input_distribution: is 'gauss': input should be 'normal' or 'uniform'",
        ),
        ("rule: {name: mirror, gamma: 1}", "rule.gamma: unknown key"),
        ("optimizer: {nesterov: 1}", "optimizer.nesterov: is 1: input should be a valid boolean"),
        ("optimizer: {nesterov: yes please}", "optimizer.nesterov: is 'yes please': input should be a valid boolean"),
        ("compute: {deterministic: 1}", "compute.deterministic: is 1: input should be a valid boolean"),
        ("alignment: {every: -1}", "alignment.every: is -1: input should be greater than or equal to 0"),
        ("alignment: {every: 2.5}", "alignment.every: is 2.5: input should be a valid integer"),
        ("alignment: {images: 1}", "alignment.images: is 1: input should be greater than or equal to 2"),
        ("alignment: {evry: 1}", "alignment.evry: unknown key; did you mean 'alignment.every'?"),
        ("compute: cpu", "compute: is 'cpu': input should be a valid dictionary"),
        ("rule: 3", "rule: is 3, expected a name, or a name and its options"),
        ("model: {name: 3}", "model.name: unknown model '3'"),
        ("schedule: cosin", "schedule.name: unknown schedule 'cosin'; did you mean 'cosine'?"),
        ("1: 2", "1: is 1: keys should be strings"),
        ("lr: 0.1", "lr: unknown key; did you mean 'optimizer.lr'?"),
        ("optimizer: {name: sgd, alpha: 1}", "optimizer.alpha: unknown key"),
    ],
)
def test_strictness(text, message):
    (found,) = messages(text)
    assert found.startswith(f"f.yaml:1: {message}")


def test_whole_numbers_are_numbers():
    assert parse_run({"optimizer": {"lr": 1}, "rule": {"name": "mirror", "alpha": 0}}).optimizer.lr == 1.0


@pytest.mark.parametrize("path", ["os:sep", "json:loads", "pathlib:Path", "collections:OrderedDict"])
def test_what_is_no_rule_is_refused_as_one(path):
    with pytest.raises(ConfigError, match="rule"):
        parse_run({"rule": path})


@pytest.mark.parametrize("path", ["nosuchmodule:x", "json:nope", ":x"])
def test_what_cannot_be_imported_is_refused(path):
    with pytest.raises(ConfigError, match=rf"rule\.name: learning rule '{path}' cannot be imported"):
        parse_run({"rule": path})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"compute": {"device": "mps"}},
            r"compute\.device: is 'mps', expected auto, cpu or cuda: resources\.workers is 2",
        ),
        (
            {"compute": {"device": "xla"}},
            r"compute\.device: is 'xla', expected auto, cpu or cuda: resources\.workers is 2",
        ),
        ({"compute": {"device": "cuda"}}, r"resources\.gpus: is 0\.0, expected more: compute\.device is 'cuda'"),
    ],
)
def test_many_workers_on_a_device_that_they_cannot_have_are_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        parse_run({**content, "resources": {"workers": 2}})
    parse_run(content)


RICH = {
    "rule": {"name": "information", "alpha": 1e-5, "input_distribution": "normal"},
    "model": {"name": "mlp", "width": 8},
    "data": {"name": "synthetic", "noise": 0.5},
    "schedule": {"name": "step", "drops": [1, 2.5]},
    "compute": {"device": "cpu"},
    "resources": {"gpus": 0.25},
    "epochs": 3,
}
CONTENTS = [{}, RICH, {"schedule": "step"}, {"rule": "kolen_pollack"}]


@pytest.mark.parametrize("content", CONTENTS)
def test_yaml_and_plain_data_describe_the_run_completely(content):
    config = parse_run(content)
    for again in (parse_run(parse_document(config.to_yaml())), parse_run(config.plain())):
        assert again.flat() == config.flat()
        assert again.to_yaml() == parse_run(again.plain()).to_yaml()


@pytest.mark.parametrize("content", CONTENTS)
def test_pickling(content):
    config = parse_run(content)
    again = pickle.loads(pickle.dumps(config))
    assert again.flat() == config.flat()
    assert type(again.rule.make("rule")) is type(config.rule.make("rule"))


@pytest.mark.parametrize("content", CONTENTS)
def test_runs_of_the_same_settings_are_equal(content):
    config = parse_run(content)
    assert config == parse_run(content)
    assert config == parse_run(parse_document(config.to_yaml()))
    assert config != parse_run({**content, "seed": 5})


def test_a_run_is_immutable():
    config = parse_run({})
    for target, key in ((config, "epochs"), (config.rule, "name"), (config.compute, "device")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, key, 3)


def test_parsing_leaves_its_input_alone():
    content = {"rule": "mirror", "optimizer": {"lr": 0.2}}
    parse_run(content)
    assert content == {"rule": "mirror", "optimizer": {"lr": 0.2}}


def test_check_run_returns_the_run_or_its_problems():
    config, problems = check_run({"epochs": 2})
    assert config is not None
    assert (config.epochs, problems) == (2, [])
    config, problems = check_run({"epochs": 0, "sed": 1})
    assert config is None
    assert {problem.key for problem in problems} == {"epochs", "sed"}


def test_flat_keys_set_the_run_again():
    config = parse_run(RICH)
    settings = [f"{key}={'null' if value is None else value}" for key, value in config.flat().items()]
    assert parse_run(with_settings(parse_document(""), settings)).flat() == config.flat()


MODULE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aln.rules import LearningRule


@dataclass(frozen=True, kw_only=True)
class Halved(LearningRule):
    """The error goes through a fraction of W."""

    learns_backward_weight: ClassVar[bool] = False
    fraction: float = 0.5

    def feedback(self, s):
        return self.fraction * s.W
'''


@pytest.fixture
def own_rule(tmp_path, monkeypatch) -> str:
    (tmp_path / "my_halved_rule.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_halved_rule:Halved"


def test_a_users_own_rule_by_its_path(own_rule):
    config = parse_run({"rule": {"name": own_rule, "fraction": 0.25}})
    rule = config.rule.make("rule")
    assert isinstance(rule, LearningRule)
    assert rule.fraction == 0.25
    again = pickle.loads(pickle.dumps(config))
    assert again.flat()["rule.name"] == own_rule
    assert parse_run({"rule": own_rule}).rule.fraction == 0.5


def test_options_without_a_type_are_taken_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "my_untyped_model.py").write_text("def net(shape, classes, *, width=3):\n    return width\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = parse_run({"model": {"name": "my_untyped_model:net", "width": 5}}).model
    assert model.make("model", (1, 8, 8), 10) == 5


def test_a_users_own_rule_is_checked_like_any_other(own_rule):
    assert messages(f"rule: {{name: '{own_rule}', fractoin: 1}}\n") == [
        "f.yaml:1: rule.fractoin: unknown key; did you mean 'rule.fraction'?"
    ]
    with pytest.raises(ConfigError, match="input should be a finite number"):
        parse_run({"rule": {"name": own_rule, "fraction": math.nan}})
