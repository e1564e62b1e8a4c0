"""What a compressed network may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Budget:
    """Upper bounds on a network's cost, each as a share of the original's: one of them, or several at once.

    `params`: parameters; `macs`: multiply-accumulates of one call; `bytes`: of parameters and buffers; `latency`: time
    of one call, frozen, on this machine, which is measured. ValueError for none at all, or one that is not in (0, 1].
    """

    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = self.shares()
        if not given:
            names = ", ".join(field.name for field in fields(self))
            raise ValueError(f"a budget needs at least one of {names}, for example Budget(macs=0.5)")
        for name, share in given.items():
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise ValueError(f"{name} must be a share of the original's cost in (0, 1], got {share!r}")

    def shares(self) -> dict[str, float]:
        """The shares that are given, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: share for name, share in every.items() if share is not None}

    def limits(self, original: dict[str, int]) -> dict[str, int]:
        """The largest whole cost of each kind that the budget allows, from the original's costs."""
        return {name: math.floor(share * original[name] + 1e-9) for name, share in self.shares().items()}

    def __str__(self) -> str:
        return ", ".join(f"{name}={share:g}" for name, share in self.shares().items())
