"""Marks the rules that the simulator compiles.

Everything else calls them as plain Python, and needs no compiler for it.
"""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

RULES: list[Callable] = []
"""Every marked function, in the order of its definition."""


def rule(function: Function) -> Function:
    """Mark a function on numbers and sequences of numbers; it stays what it is."""
    RULES.append(function)
    return function
