"""Records of a made-up run, shaped like a real one: three stages, falling loss, a drop at each transition."""

from __future__ import annotations

import math
import random
from typing import Any

RATES = {1: (0.5, 0.5, 0.5), 2: (0.5, 0.5, 1.0), 3: (1.0, 1.0, 1.0)}
SHARE_BLOCKS = {1: 0.25, 2: 0.5, 3: 1.0}
SHARE_TOTAL = {1: 0.4, 2: 0.6, 3: 1.0}
STEP_S = {1: 0.4, 2: 0.7, 3: 1.1}
OFFSET = {1: 0.45, 2: 0.2, 3: 0.0}


def fake_metrics(
    steps: int = 300, until: tuple[int, int] = (75, 150), eval_every: int = 20, seed: int = 0
) -> list[dict[str, Any]]:
    """All records of a run of `steps` steps whose first two stages end after `until` steps."""
    rng, records = random.Random(seed), []
    used = used_total = 0.0
    for step in range(1, steps + 1):
        stage = 1 + sum(step > end for end in until)
        if step - 1 in until:
            records.append(_transition(step - 1, stage, steps))
        used, used_total = used + SHARE_BLOCKS[stage], used_total + SHARE_TOTAL[stage]
        records.append(_train(step, steps, stage, used, used_total, rng))
        if step % eval_every == 0 or step == steps:
            loss = _curve(step, steps) + (0.1 + OFFSET[stage] / 4)
            records.append({"step": step, "tokens": step * 4096, "val_loss": loss, "perplexity": math.exp(loss)})
    return records


def _curve(step: int, steps: int) -> float:
    return 2.9 + 6.6 * math.exp(-step / (0.05 * steps)) + 0.9 * math.exp(-step / (0.6 * steps))


def _train(step: int, steps: int, stage: int, used: float, used_total: float, rng: random.Random) -> dict[str, Any]:
    p_h, p_m, p_l = RATES[stage]
    step_s = STEP_S[stage] * (1 + abs(rng.gauss(0, 0.03))) + (2.0 if step == 1 else 0.0)
    return {
        "step": step, "tokens": step * 4096, "stage": stage, "p_h": p_h, "p_m": p_m, "p_l": p_l,
        "loss": _curve(step, steps) + OFFSET[stage] + rng.gauss(0, 0.08), "lr": 1e-3 * min(1, step / 20),
        "grad_norm": 0.5 + rng.random(), "flops": used_total * 3e12, "flops_dense": step * 3e12,
        "flops_saved_pct_blocks": 100 * (1 - used / step), "flops_saved_pct_total": 100 * (1 - used_total / step),
        "tokens_per_s": 4096 / step_s, "step_s": step_s, "mfu": None, "mem_gb": 1.25,
    }  # fmt: skip


def _transition(step: int, to_stage: int, steps: int) -> dict[str, Any]:
    loss = _curve(step, steps)
    losses = {"loss_before": loss + OFFSET[to_stage - 1], "loss_after": loss + OFFSET[to_stage]}
    return {"event": "stage_transition", "step": step, "from_stage": to_stage - 1, "to_stage": to_stage} | losses
