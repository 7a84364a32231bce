"""Where a run is followed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class WandbMode(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


@dataclass
class TrackingConfig:
    wandb: WandbMode = WandbMode.auto
    """auto: online where a key is configured, otherwise offline."""
    project: str = "est"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
