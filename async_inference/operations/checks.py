"""The results of checks, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from async_inference.terminal import Name

Verdict = Literal["ok", "differs", "not checked"]
_STYLES = {"ok": "green", "differs": "red", "not checked": "yellow"}


@dataclass(frozen=True)
class Check:
    """One check: how a resource should be, and how it is.

    Args:
        what: the resource.
        asked: how it should be; if it differs, only what differs.
        found: how it is.
        remedy: what to do if it differs; None if it does not.
        checked: False if the check was impossible; `found` says why.
    """

    what: str
    asked: str
    found: str
    remedy: str | None = None
    checked: bool = True

    @property
    def verdict(self) -> Verdict:
        """The result."""
        if not self.checked:
            return "not checked"
        return "ok" if self.remedy is None else "differs"

    @property
    def passed(self) -> bool:
        """Whether it found no difference."""
        return self.verdict != "differs"


def as_table(checks: Sequence[Check]) -> Group:
    """One row for each check, then one sentence with a remedy for each difference."""
    table = Table("what", "asked", "found", Column("verdict", no_wrap=True))
    for check in checks:
        verdict = Text(check.verdict, style=_STYLES[check.verdict])
        table.add_row(Name(check.what), Name(check.asked), Name(check.found), verdict)
    failed = [check for check in checks if not check.passed]
    sentences = [
        Text(
            f"{check.what}: asked for {check.asked}; found {check.found}.\n  -> {check.remedy}",
            style="red",
        )
        for check in failed
    ]
    counted = {
        verdict: sum(check.verdict == verdict for check in checks)
        for verdict in ("ok", "differs", "not checked")
    }
    end = ", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count)
    return Group(table, *sentences, Text(f"{end}."))


def as_json(checks: Sequence[Check]) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "passed": all(check.passed for check in checks),
        "checks": [
            {**asdict(check), "passed": check.passed, "verdict": check.verdict} for check in checks
        ],
    }
