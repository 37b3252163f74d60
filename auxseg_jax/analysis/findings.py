"""What `auxseg doctor` finds."""

import dataclasses
from typing import Any

PASS, NOTE, FAIL = "PASS", "NOTE", "FAIL"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one examination found.

    Attributes:
      name: what was examined.
      status: PASS; NOTE, it works but a user should know; or FAIL.
      text: what was found.
      advice: what to do; "" with PASS.
      figures: the numbers, for JSON.
      seconds: how long it took.
    """

    name: str
    status: str
    text: str
    advice: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def has_failed(findings: list[Finding]) -> bool:
    """Returns whether one of them failed."""
    return any(finding.status == FAIL for finding in findings)


def end_of(findings: list[Finding]) -> str:
    """Returns the last line for a person."""
    failed = [finding.name for finding in findings if finding.status == FAIL]
    seconds = sum(finding.seconds for finding in findings)
    result = f"FAIL: {', '.join(failed)}" if failed else f"PASS: all {len(findings)}"
    return f"{result}, in {seconds:.0f} s"


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """Returns all findings as JSON."""
    return {
        "status": FAIL if has_failed(findings) else PASS,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
