"""Registration, look-up, and what is said about names that are wrong."""

import math
import sys

import pytest
from torch import nn
from torch.testing import assert_close

from aln.conversion import align
from aln.errors import RegistryError
from aln.registry import Registry
from aln.rules import RULES, Backprop, LearningRule
from aln.testing import check_rule


@pytest.fixture
def fruits():
    registry = Registry("fruit")
    registry.register("pear")("a pear")
    registry.register("apple")("an apple")
    return registry


def test_register_hands_the_entry_back(fruits):
    entry = object()
    assert fruits.register("plum")(entry) is entry
    assert fruits.get("plum") is entry


def test_iteration_keeps_the_order_of_registration(fruits):
    assert list(fruits) == ["pear", "apple"]
    assert list(fruits.items()) == [("pear", "a pear"), ("apple", "an apple")]


def test_duplicate_raises_and_keeps_the_first(fruits):
    with pytest.raises(RegistryError, match="fruit 'apple' is registered already"):
        fruits.register("apple")("another")
    assert fruits.get("apple") == "an apple"


def test_unknown_name_lists_known_and_nearest(fruits):
    with pytest.raises(RegistryError, match=r"unknown fruit 'aple'; did you mean 'apple'\? \(known: apple, pear\)"):
        fruits.get("aple")


def test_unknown_name_without_a_near_one(fruits):
    with pytest.raises(RegistryError, match=r"unknown fruit 'zzz' \(known: apple, pear\)"):
        fruits.get("zzz")


def test_dotted_path_is_imported(fruits):
    assert fruits.get("math:sqrt") is fruits.get("math.sqrt") is math.sqrt
    assert fruits.get("aln.registry:Registry") is Registry


@pytest.mark.parametrize(
    "path", ["no_such_module:x", "math:no_such_attribute", "math.no_such:x", ":sqrt", "math:", ".math:sqrt"]
)
def test_path_that_leads_nowhere(fruits, path):
    with pytest.raises(RegistryError, match=f"fruit '{path}' cannot be imported"):
        fruits.get(path)


def test_a_misspelt_attribute_comes_with_the_nearest(fruits):
    with pytest.raises(RegistryError, match=r"no attribute 'registry'; did you mean 'aln\.registry:Registry'\?"):
        fruits.get("aln.registry:registry")


def test_an_error_in_the_users_module_comes_with_its_line(fruits, tmp_path, monkeypatch):
    (tmp_path / "broken_fruits.py").write_text("x = 1\ny = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError, match=r"cannot be imported: division by zero \(.*broken_fruits\.py:2\)"):
        fruits.get("broken_fruits:y")


def test_error_can_be_caught_as_lookup_error(fruits):
    with pytest.raises(LookupError, match="unknown fruit"):
        fruits.get("zzz")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("my_fruit:pear", "my_fruits:pear"),
        ("my_fruits.ovl:pear", "my_fruits.oval:pear"),
        ("my_fruit.oval:pear", "my_fruits.oval:pear"),
    ],
)
def test_a_misspelt_module_comes_with_the_nearest(fruits, tmp_path, monkeypatch, name, meant):
    package = tmp_path / "my_fruits"
    package.mkdir()
    for module in ("__init__.py", "oval.py"):
        (package / module).write_text("def pear(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError, match=rf"No module named .*; did you mean '{meant}'\?$"):
        fruits.get(name)


def test_a_module_that_the_users_own_asks_for_is_not_guessed(fruits, tmp_path, monkeypatch):
    (tmp_path / "my_fruits.py").write_text("import my_fruit\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RegistryError, match=r"No module named 'my_fruit' \(.*my_fruits\.py:1\)$"):
        fruits.get("my_fruits:pear")


# What other packages bring along.


@pytest.fixture
def my_lab(tmp_path, monkeypatch):
    """A package as installers leave it: a module, and the metadata that declares its rules."""
    (tmp_path / "my_lab_rules.py").write_text(
        "from dataclasses import dataclass\n"
        "from aln.rules import Backprop\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Halved(Backprop):\n"
        "    factor: float = 0.5\n"
        "    def feedback(self, s):\n"
        "        return self.factor * s.W\n"
        "not_a_rule = 3\n"
    )
    metadata = tmp_path / "my_lab-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[aln.rules]\n"
        "halved = my_lab_rules:Halved\n"
        "missing = my_lab_rules:Missing\n"
        "number = my_lab_rules:not_a_rule\n"
        "backprop = my_lab_rules:Halved\n"
        "[other.group]\n"
        "elsewhere = my_lab_rules:Halved\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_lab_rules", None)


@pytest.mark.usefixtures("my_lab")
def test_installed_package_brings_a_rule():
    halved = RULES.get("halved")
    assert issubclass(halved, LearningRule)
    check_rule(halved(factor=0.25))
    layer = align(nn.Linear(2, 2), halved())
    assert_close(layer.feedback_weight(), 0.5 * layer.weight)


@pytest.mark.usefixtures("my_lab")
def test_own_names_go_before_those_of_packages():
    assert RULES.get("backprop") is Backprop


@pytest.mark.usefixtures("my_lab")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "learning rule 'my_lab_rules:Missing' cannot be imported: .* has no attribute 'Missing'"),
        ("number", "learning rule 'my_lab_rules:not_a_rule' is no subclass of LearningRule"),
        ("elsewhere", "unknown learning rule 'elsewhere'"),
        ("halfed", "unknown learning rule 'halfed'; did you mean 'halved'\\? \\(known: activation, .*halved"),
    ],
)
def test_entry_point_that_leads_nowhere(name, message):
    with pytest.raises(RegistryError, match=message):
        RULES.get(name)


def test_packages_are_asked_for_by_registries_with_a_group_alone():
    with pytest.raises(RegistryError, match=r"unknown thing 'halved' \(known: \)"):
        Registry("thing").get("halved")
