"""What the studies of docs/results/ compare: arms by name, each with the overrides that tell it from the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

KEYS = {"heads": "p_h", "columns": "p_m", "layers": "p_l"}


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    overrides: tuple[str, ...]
    as_long_as: str | None = None
    """The arm whose FLOPs (total) decide how many steps this one trains; None: those of the recipe."""
    saves: float | None = None
    """Share of the block FLOPs that the boundaries are set for, by est-plan's target_saving; None: as they are."""


@dataclass(frozen=True)
class Study:
    question: str
    arms: dict[str, Arm]
    sizes: tuple[str, ...] = ("s",)
    seeds: tuple[int, ...] = (0, 1, 2)
    reference: str = "dense"
    """The arm that the others are held against."""


MODERN = ("model=llama_tiny", "model.mlp_size=112", "optim=muon")
DENSE, EST = Arm(("scheduler=dense",)), Arm(("scheduler=three_stage",))
SHORT = Arm(("scheduler=dense",), as_long_as="three_stage")


def _sampled(kinds: tuple[str, ...]) -> Arm:
    """three_stage with only these units sampled."""
    return Arm(("scheduler=three_stage", *(f"stage.{KEYS[kind]}=1" for kind in KEYS if kind not in kinds)))


def _saving(*overrides: str) -> Arm:
    """With boundaries that save a little more than the paper's 26.7 % of the block FLOPs."""
    return Arm(overrides, saves=0.28)


CANDIDATES = {
    "three_stage": _saving(*EST.overrides),
    "three_stage, ends kept": _saving(*EST.overrides, "sampling.keep_ends=true"),
    "three_stage, ends kept, frozen rows": _saving(
        *EST.overrides, "sampling.keep_ends=true", "optim.unsampled_rows=frozen"
    ),
    "three_stage, a quarter of heads and columns": _saving(*EST.overrides, "stage.p_h=0.25", "stage.p_m=0.25"),
    "heads and columns": _saving(*_sampled(("heads", "columns")).overrides),
    "columns": _saving(*_sampled(("columns",)).overrides),
    "linear": _saving("scheduler=linear"),
    "linear, ends kept, frozen rows": _saving(
        "scheduler=linear", "sampling.keep_ends=true", "optim.unsampled_rows=frozen"
    ),
    "raptr": _saving("scheduler=raptr"),
    "gradual_stacking": _saving("scheduler=gradual_stacking"),
    "g_stack": _saving("scheduler=g_stack"),
    "one_layer": _saving("scheduler=one_layer"),
}

WIDE = {"dense": DENSE, "three_stage": EST, "raptr": CANDIDATES["raptr"]}
"""What the study of widths tunes the learning rate for."""

WIDE_LR = "optim.lr=0.0015"
"""The best of those of study v, for each arm."""

DESIGNED = (
    "scheduler=n_stage",
    "stage.boundaries=[142,300,1536]",
    "stage.rates=[[0.5,0.5,0.5,0.5],[0.5,0.5,1.0],[0.5,1.0,1.0],[1.0,1.0,1.0]]",
)
"""What est-plan found at width 64 for the saving of three_stage, by prices of a dense run of another seed: study w."""

STUDIES: dict[str, Study] = {
    "a": Study(
        "Does EST reach the loss of dense training at equal steps, and is it better at equal FLOPs?",
        {"dense": DENSE, "three_stage": EST, "dense, equal FLOPs": SHORT},
        sizes=("s", "l", "m"),
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
                for (t1, t2), p in product(((0.05, 0.3), (0.15, 0.5), (0.3, 0.7)), (0.25, 0.5, 0.75))
            },
            **{
                f"dense, equal FLOPs to {arm}": Arm(("scheduler=dense",), as_long_as=arm)
                for arm in ("t1=0.15 t2=0.5 p=0.25", "t1=0.3 t2=0.7 p=0.25", "t1=0.3 t2=0.7 p=0.5")
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
            "four draws in each step": Arm((*EST.overrides, "sampling.redraw=forward", "train.micro_batch=4")),
            "ends kept, four draws": Arm(
                (*EST.overrides, "sampling.keep_ends=true", "sampling.redraw=forward", "train.micro_batch=4")
            ),
            "branches times 1/p_L": Arm((*EST.overrides, "sampling.layer_scale=inverse")),
            "frozen rows": Arm((*EST.overrides, "optim.unsampled_rows=frozen")),
            "skipped layers decay": Arm((*EST.overrides, "optim.skipped_layers=zero_grad")),
            "ends kept, frozen rows": Arm((*EST.overrides, "sampling.keep_ends=true", "optim.unsampled_rows=frozen")),
            "dense, cosine": Arm((*DENSE.overrides, "optim.schedule=cosine")),
            "three_stage, cosine": Arm((*EST.overrides, "optim.schedule=cosine")),
            "dense, half the rate": Arm((*DENSE.overrides, "optim.lr=0.0015")),
            "three_stage, half the rate": Arm((*EST.overrides, "optim.lr=0.0015")),
            "ends kept, half the rate": Arm((*EST.overrides, "sampling.keep_ends=true", "optim.lr=0.0015")),
            "frozen rows, half the rate": Arm((*EST.overrides, "optim.unsampled_rows=frozen", "optim.lr=0.0015")),
            "dense, twice the rate": Arm((*DENSE.overrides, "optim.lr=0.006")),
            "three_stage, twice the rate": Arm((*EST.overrides, "optim.lr=0.006")),
        },
        seeds=(0, 1),
    ),
    "h": Study(
        "Is there a schedule that saves more than the paper's at no higher loss than dense training?",
        {"dense": DENSE, **CANDIDATES},
        seeds=(0,),
    ),
    "k": Study(
        "Does the best schedule of study h hold with seeds that did not choose it, and at another size?",
        {
            "dense": DENSE,
            "one_layer": CANDIDATES["one_layer"],
            "one_layer, 40 % saved": Arm(CANDIDATES["one_layer"].overrides, saves=0.4),
            "dense, equal FLOPs": Arm(DENSE.overrides, as_long_as="one_layer"),
        },
        sizes=("s", "l"),
        seeds=(1, 2, 3),
    ),
    "n": Study(
        "Do the choices that closed much of the gap in short training (g, h) close it in long training?",
        {
            "dense": DENSE,
            "three_stage": EST,
            "ends kept": Arm((*EST.overrides, "sampling.keep_ends=true")),
            "frozen rows": Arm((*EST.overrides, "optim.unsampled_rows=frozen")),
            "raptr": CANDIDATES["raptr"],
            "dense, equal FLOPs": Arm(DENSE.overrides, as_long_as="raptr"),
            "dense, half the rate": Arm((*DENSE.overrides, "optim.lr=0.0015")),
            "ends kept, half the rate": Arm((*EST.overrides, "sampling.keep_ends=true", "optim.lr=0.0015")),
        },
        sizes=("l",),
    ),
    "o": Study(
        "Does the gap close when training gets longer still?",
        {
            "dense": DENSE,
            "three_stage": EST,
            "raptr": CANDIDATES["raptr"],
            "one_layer": CANDIDATES["one_layer"],
            "dense, equal FLOPs": Arm(DENSE.overrides, as_long_as="raptr"),
        },
        sizes=("x",),
    ),
    "v": Study(
        "Which learning rate suits which arm at width 64?",
        {
            f"{name}, lr {lr}": Arm((*arm.overrides, f"optim.lr={lr}"), saves=arm.saves)
            for lr, (name, arm) in product((0.00075, 0.0015, 0.003), WIDE.items())
        },
        sizes=("w64",),
        seeds=(0,),
        reference="dense, lr 0.0015",
    ),
    "w": Study(
        "Does the gap to dense training close as the model gets wider?",
        {
            **{name: replace(arm, overrides=(*arm.overrides, WIDE_LR)) for name, arm in WIDE.items()},
            "dense, equal FLOPs": Arm((*DENSE.overrides, WIDE_LR), as_long_as="three_stage"),
            "designed by prices": Arm((*DESIGNED, WIDE_LR)),
        },
        sizes=("w64", "w128"),
    ),
    "j": Study(
        "Does EST reach the loss of dense training at the size of GPT-2 base, and is it better at equal FLOPs?",
        {
            "dense": DENSE,
            "three_stage": EST,
            "ends kept": Arm((*EST.overrides, "sampling.keep_ends=true")),
            "dense, equal FLOPs": SHORT,
        },
        sizes=("base",),
        seeds=(0, 1, 2),
    ),
    "i": Study(
        "Does the saving survive a modern recipe (Llama's shape, WSD, Muon)?",
        {
            "dense": Arm((*DENSE.overrides, *MODERN)),
            "three_stage": Arm((*EST.overrides, *MODERN)),
            "dense, equal FLOPs": Arm((*DENSE.overrides, *MODERN), as_long_as="three_stage"),
        },
        seeds=(0, 1),
    ),
}
"""By letter; l, m and x are sizes; d is studies/schedulers.py, f looks at the models of a (studies/twins.py)."""

ON_GPU = ("j",)
"""Run only where they are asked for by name."""
