"""Marks the functions that the simulator compiles.

Everything else calls them as plain Python and needs no compiler.
"""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

RULES: list[Callable] = []
"""Every marked function, in order of definition."""


def rule(function: Function) -> Function:
    """Mark a function on numbers and sequences of numbers, and return it unchanged."""
    RULES.append(function)
    return function
