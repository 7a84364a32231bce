"""What the studies of docs/results/ compare: arms by name, each with the overrides that tell it from the recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

HALF = 0.5
KEYS = {"heads": "p_h", "columns": "p_m", "layers": "p_l"}


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    overrides: tuple[str, ...]
    as_long_as: str | None = None
    """The arm whose FLOPs (total) decide how many steps this one trains; None: those of the recipe."""


@dataclass(frozen=True)
class Study:
    question: str
    arms: dict[str, Arm]
    sizes: tuple[str, ...] = ("s",)
    seeds: tuple[int, ...] = (0, 1, 2)
    reference: str = "dense"
    """The arm that the others are held against."""
    notes: tuple[str, ...] = field(default=())


DENSE, EST = Arm(("scheduler=dense",)), Arm(("scheduler=three_stage",))
SHORT = Arm(("scheduler=dense",), as_long_as="three_stage")


def _sampled(kinds: tuple[str, ...]) -> Arm:
    """three_stage with only these units sampled."""
    return Arm(("scheduler=three_stage", *(f"stage.{KEYS[kind]}=1" for kind in KEYS if kind not in kinds)))


STUDIES: dict[str, Study] = {
    "a": Study(
        "Does EST reach the loss of dense training at equal steps, and is it better at equal FLOPs?",
        {"dense": DENSE, "three_stage": EST, "dense, equal FLOPs": SHORT},
        sizes=("s", "m"),
    ),
    "b": Study(
        "Which kind of sampling costs what?",
        {
            "dense": DENSE,
            **{
                " and ".join(kinds): _sampled(kinds)
                for kinds in (
                    *((kind,) for kind in KEYS),
                    ("heads", "columns"),
                    ("heads", "layers"),
                    ("columns", "layers"),
                )
            },
            "all": EST,
        },
    ),
    "c": Study(
        "How sensitive is the loss to boundaries and rates?",
        {
            "dense": DENSE,
            **{
                f"t1={t1} t2={t2} p={p}": Arm(
                    (
                        "scheduler=three_stage",
                        f"stage.t1={t1}",
                        f"stage.t2={t2}",
                        *(f"stage.{k}={p}" for k in KEYS.values()),
                    )
                )
                for t1, t2, p in product((0.05, 0.15, 0.3), (0.3, 0.5, 0.7), (0.5, 0.75))
            },
        },
        seeds=(0,),
    ),
    "e": Study(
        "Is it early dropout that matters? Unstructured dropout of the same rate on the same schedule.",
        {
            "dense": DENSE,
            "three_stage": EST,
            "early_dropout": Arm(("scheduler=early_dropout",)),
            "early_dropout, equal FLOPs": Arm(("scheduler=early_dropout",), as_long_as="three_stage"),
        },
    ),
    "g": Study(
        "Which choices that the paper leaves open close the gap to dense training?",
        {
            "dense": DENSE,
            "three_stage": EST,
            "ends kept": Arm((*EST.overrides, "sampling.keep_ends=true")),
            "redraw in each forward pass": Arm((*EST.overrides, "sampling.redraw=forward", "train.micro_batch=4")),
            "one draw for all layers": Arm((*EST.overrides, "sampling.per_layer=false")),
            "branches times 1/p_L": Arm((*EST.overrides, "sampling.layer_scale=inverse")),
            "frozen rows": Arm((*EST.overrides, "optim.unsampled_rows=frozen")),
            "skipped layers decay": Arm((*EST.overrides, "optim.skipped_layers=zero_grad")),
            "ends kept, frozen rows": Arm((*EST.overrides, "sampling.keep_ends=true", "optim.unsampled_rows=frozen")),
            "dense, cosine": Arm((*DENSE.overrides, "optim.schedule=cosine")),
            "three_stage, cosine": Arm((*EST.overrides, "optim.schedule=cosine")),
        },
    ),
    "i": Study(
        "Does the saving survive a modern recipe (Llama's shape, WSD, Muon)?",
        {
            "dense": Arm((*DENSE.overrides, "model=llama_tiny", "optim=muon")),
            "three_stage": Arm((*EST.overrides, "model=llama_tiny", "optim=muon")),
            "dense, equal FLOPs": Arm((*DENSE.overrides, "model=llama_tiny", "optim=muon"), as_long_as="three_stage"),
        },
    ),
}
"""By the letter of the plan; d is benchmarks/schedulers.py, f needs the models of a (Hessian trace, GLUE)."""
