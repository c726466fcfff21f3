"""What lies under a run's document: the recipe of its data set, and the keys that it asks for."""

import pytest

from aln.config import check_run, parse_run, read_run, with_settings
from aln.config.components import component_model
from aln.config.run import _schema
from aln.data import DATA
from aln.errors import ConfigError


def test_a_recipe_lies_under_a_run_which_may_change_it():
    recipe = {"recipe": "imagenet"}
    config = parse_run(recipe)
    assert (config.epochs, config.batch_size, config.model.name) == (90, 256, "resnet18")
    assert config.flat()["optimizer.reference_batch"] == 256
    assert config.flat()["schedule.drops"] == [30, 60, 80]
    changed = parse_run({**recipe, "epochs": 9, "optimizer": {"lr": 0.2}, "schedule": "cosine"})
    assert (changed.epochs, changed.flat()["optimizer.lr"], changed.schedule.name) == (9, 0.2, "cosine")
    assert changed.flat()["optimizer.momentum"] == 0.9
    with pytest.raises(ConfigError, match=r"unknown recipe 'imagnet'; did you mean 'imagenet'\? \(known: imagenet\)"):
        parse_run({"recipe": "imagnet"})


@pytest.fixture
def in_a_folder(monkeypatch):
    """A data set called imagenet that lies in a folder, whether or not there is one."""

    def images(*, root: str) -> str:
        return root

    monkeypatch.setitem(DATA._entries, "imagenet", images)
    component_model.cache_clear()
    _schema.cache_clear()
    yield
    component_model.cache_clear()
    _schema.cache_clear()


@pytest.mark.usefixtures("in_a_folder")
def test_images_in_a_folder_are_imagenet_and_bring_its_recipe():
    settings = ["data.root=/images", "model=resnet101v2"]
    config = parse_run(with_settings(read_run("symmetric"), settings))
    assert (config.rule.name, config.data.name, config.data.root) == ("symmetric", "imagenet", "/images")
    assert (config.model.name, config.epochs, config.batch_size) == ("resnet101v2", 90, 256)
    assert (config.optimizer.name, config.schedule.drops) == ("momentum", (30, 60, 80))
    without = parse_run(with_settings(read_run("symmetric"), [*settings, "recipe=null"]))
    assert (without.model.name, without.epochs, without.optimizer.name) == ("resnet101v2", 20, "sgd")
    again = parse_run(config.plain())  # complete: no recipe changes it
    assert again.flat() == config.flat()
    with pytest.raises(ConfigError, match=r"data\.root: is required"):
        parse_run({"data": "imagenet"})


def test_a_section_of_another_name_than_the_recipes_takes_nothing_of_it():
    config = parse_run({"recipe": "imagenet", "optimizer": "adam", "schedule": {"name": "step", "drops": [1]}})
    assert (config.optimizer.lr, config.optimizer.reference_batch) == (1e-3, None)
    assert (config.schedule.drops, config.schedule.warmup_epochs) == ((1,), 5)


def test_what_is_required_may_be_a_sections_name():
    required = {"required": {"keys": ["alignment_optimizer.name", "noise.variance"], "because": "nobody knows"}}
    (name, variance) = check_run({"rule": "mirror", **required})[1]
    assert str(name) == "alignment_optimizer.name: is required: nobody knows; set alignment_optimizer.name=…"
    assert variance.key == "noise.variance"
    config, problems = check_run(
        {"rule": "mirror", **required, "alignment_optimizer": "adam", "noise": {"variance": 0}}
    )
    assert problems == []
    assert "required" not in config.plain()


@pytest.mark.parametrize(
    "required", [[1], {"keys": ["seed"]}, {"keys": "seed", "because": "x"}, {"because": "x"}, "seed"]
)
def test_what_asks_for_keys_says_which_and_why(required):
    (problem,) = check_run({"required": required}, "run.")[1]
    assert str(problem) == f"run.required: is {required!r}, expected {{keys: [dotted keys], because: why}}"
