"""What the steps of all benchmarks do: nothing but give what an API would."""

from __future__ import annotations

STEPS = ("search", "reserve", "charge", "confirm")


def work(name: str) -> dict[str, object]:
    """Give a small result."""
    return {"name": name, "id": 12345, "ok": True}
