"""What a comparison found, a row for each thing, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Check:
    """One thing compared.

    Args:
        what: the resource.
        asked: how it should be; where it differs, only what differs.
        found: how it is.
        remedy: what to do; None where it is as asked.
    """

    what: str
    asked: str
    found: str
    remedy: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it is as asked."""
        return self.remedy is None


def as_table(checks: Sequence[Check]) -> Group:
    """A row for each check, then each difference as a sentence with what to do."""
    table = Table("what", "asked", "found", "verdict")
    failed = [check for check in checks if not check.passed]
    for check in checks:
        verdict = Text("ok", style="green") if check.passed else Text("differs", style="red")
        table.add_row(Text(check.what), Text(check.asked), Text(check.found), verdict)
    sentences = [
        Text(
            f"{check.what}: asked for {check.asked}; found {check.found}.\n  -> {check.remedy}",
            style="red",
        )
        for check in failed
    ]
    end = (
        f"{len(checks)} checked, {len(failed)} differ."
        if failed
        else f"{len(checks)} checked, all as asked."
    )
    return Group(table, *sentences, Text(end))


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "passed": all(check.passed for check in checks),
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
    }
