"""`tracking.*`: where a run is followed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from est_cli.config.setting import setting


class WandbMode(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


@dataclass
class TrackingConfig:
    wandb: WandbMode = setting(
        WandbMode.auto, "W&B mirrors metrics.jsonl; auto: online where a key is configured, otherwise offline."
    )
    project: str = setting("est", "The W&B project.")
    entity: str | None = setting(None, "The W&B user or team; null: the key's own.")
    tags: list[str] = setting([], "W&B tags of the run.")
