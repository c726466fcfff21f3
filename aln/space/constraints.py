"""Constraints between parameters: comparisons in plain arithmetic, such as `rule.alpha * 10 < optimizer.lr`.

A constraint may hold numbers, dotted keys, `+ - * / **`, brackets, `min`, `max`, `log10`, `abs` and one or more of
`< <= > >= !=`. It is read as Python's syntax tree and evaluated node by node: nothing of it is ever executed.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # which raises where `**` would leave the real numbers
}
_COMPARISONS: dict[type[ast.AST], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "log10": math.log10, "abs": abs}
_OF_ONE = ("log10", "abs")
_LONGEST = 500


@dataclass(frozen=True)
class Constraint:
    """A comparison that a point must satisfy. Make it with `parse_constraint`."""

    text: str
    keys: tuple[str, ...]

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether the values satisfy it. It holds if one of its keys is absent, and not where it is undefined (1/0)."""
        if any(key not in values for key in self.keys):
            return True
        tree = _parsed(self.text)
        try:
            numbers = [_evaluated(node, values) for node in (tree.left, *tree.comparators)]
        except (ArithmeticError, ValueError):
            return False
        pairs = zip(tree.ops, numbers, numbers[1:], strict=False)
        return all(_COMPARISONS[type(compare)](left, right) for compare, left, right in pairs)


def parse_constraint(text: object) -> Constraint:
    """The constraint that a text states. Raises `ValueError` saying what was expected."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise ValueError(f"is {text!r}, expected a comparison such as 'rule.alpha < optimizer.lr'")
    try:
        tree = _parsed(text)
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"'{text}' cannot be read: {getattr(error, 'msg', 'nested too deeply')}") from None
    for compare in tree.ops:
        if isinstance(compare, ast.Eq):
            raise ValueError(f"'{text}' has ==, expected < <= > >= or !=; what is always equal is a `tie`")
        if type(compare) not in _COMPARISONS:
            raise ValueError(f"'{text}' is no comparison of numbers, expected < <= > >= or !=")
    keys: dict[str, None] = {}
    for node in (tree.left, *tree.comparators):
        _check(node, text, keys)
    if not keys:
        raise ValueError(f"'{text}' names no parameter")
    return Constraint(text, tuple(keys))


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.Compare:
    tree = ast.parse(text.strip(), mode="eval").body
    if not isinstance(tree, ast.Compare):
        raise SyntaxError("expected a comparison such as 'rule.alpha < optimizer.lr'")
    return tree


def _check(node: ast.expr, text: str, keys: dict[str, None]) -> None:
    """Raises `ValueError` for what a constraint may not hold, and collects the keys that it names."""
    inner: list[ast.expr] = []
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return
    if isinstance(node, ast.Name | ast.Attribute) and (key := _key(node)):
        keys[key] = None
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        inner = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        one = node.func.id in _OF_ONE
        if node.keywords or (len(node.args) != 1 if one else len(node.args) < 2):
            raise ValueError(f"'{text}': {node.func.id} takes {'one number' if one else 'two numbers or more'}")
        inner = node.args
    else:
        allowed = f"+ - * / **, brackets, {', '.join(_FUNCTIONS)}, numbers and keys"
        raise ValueError(f"'{text}' holds '{ast.unparse(node)}', expected {allowed} alone")
    for each in inner:
        _check(each, text, keys)


def _key(node: ast.expr) -> str | None:
    """The dotted key that a node spells, or None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (parent := _key(node.value)):
        return f"{parent}.{node.attr}"
    return None


def _evaluated(node: ast.expr, values: Mapping[str, float]) -> float:
    """A checked node's value. In floats throughout: of whole numbers `9**9**9` would never end."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float)
        return float(node.value)
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluated(node.left, values), _evaluated(node.right, values))
    if isinstance(node, ast.UnaryOp):
        value = _evaluated(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _FUNCTIONS[node.func.id](*(_evaluated(each, values) for each in node.args))
    key = _key(node)
    assert key is not None
    return float(values[key])
