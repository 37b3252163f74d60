"""What `auxseg doctor` finds."""

import dataclasses
import math
from typing import Any

PASS, NOTE, FAIL = "PASS", "NOTE", "FAIL"
UNFINISHED = "UNFINISHED"


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


def to_json(findings: list[Finding], is_finished: bool) -> dict[str, Any]:
    """Returns all findings as JSON; its status is UNFINISHED, PASS or FAIL.

    Figures that are not finite, which JSON does not know, are text.
    """
    status = (FAIL if has_failed(findings) else PASS) if is_finished else UNFINISHED
    entries = [dataclasses.asdict(finding) for finding in findings]
    return {"status": status, "findings": _finite(entries)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
