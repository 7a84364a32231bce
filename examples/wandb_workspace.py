"""Lay out a W&B project of est-train: a saved view whose charts answer what EST is about.

    pip install wandb-workspaces
    python examples/wandb_workspace.py ENTITY [PROJECT]          # prints the address of the view

Sections, top to bottom: the loss over steps, tokens and FLOPs (complete model and subnetworks), what is saved, the
stages and what happened at them, speed, and the machine. Needs a key (`wandb login`) and a server that answers; the
view of other people is left alone. W&B has no way to make it the project's default: choose it on the page once.
"""

from __future__ import annotations

import sys
from typing import Any

AXES = {"step": "steps", "tokens": "tokens", "flops/used": "FLOPs"}
"""What the loss is drawn over."""
LOSSES = {"val/loss": "Validation loss of the complete model", "train/loss": "Training loss of what ran"}
SECTIONS = {
    "Saved": ("flops/saved_pct_blocks", "flops/saved_pct_total", "flops/used", "flops/dense"),
    "Stages": ("est/stage", "est/p_h", "est/p_m", "est/p_l", "est/draw_spread", "est/draw_range"),
    "Optimizer": ("train/lr", "train/grad_norm"),
    "Speed": ("perf/tokens_per_s", "perf/step_s", "perf/mfu", "perf/mem_gb"),
    "Machine": ("system.gpu.0.gpu", "system.gpu.0.memoryAllocated", "system.gpu.0.powerWatts", "system.cpu"),
}
TABLES = ("est/transitions", "est/samples")
PLOTS = ("plots/loss", "plots/saving", "plots/transitions", "plots/coverage")


def workspace(entity: str, project: str) -> Any:
    """The view, not yet saved."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def line(key: str, x: str = "step", title: str | None = None) -> Any:
        return wr.LinePlot(x=x, y=[key], title=title or key)

    losses = [line(key, x, f"{title}, over {name}") for key, title in LOSSES.items() for x, name in AXES.items()]
    sections = [ws.Section(name="Loss", panels=losses, is_open=True, pinned=True)]
    sections += [ws.Section(name=name, panels=[line(key) for key in keys]) for name, keys in SECTIONS.items()]
    events = [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]
    sections.insert(2, ws.Section(name="Transitions and samples", panels=events))
    sections.append(ws.Section(name="Plots", panels=[wr.MediaBrowser(media_keys=[key]) for key in PLOTS]))
    return ws.Workspace(entity=entity, project=project, name="est", sections=sections)


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python examples/wandb_workspace.py ENTITY [PROJECT]")
    entity, project = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "est"
    print(workspace(entity, project).save().url)


if __name__ == "__main__":
    main()
