"""`stage.*`: boundaries and sampling rates. Which scheduler reads which key stands in schedulers/NAME.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from est_cli.config.setting import Items, above, at_least, between, setting

MAX_STAGES = 32
"""Each stage may be another set of shapes to compile."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_rates(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (3, 4) and all(map(_is_number, value))


def _listed(fits: Any, words: str) -> Items:
    return Items(fits, words, entry=f"in {words}")


@dataclass
class StageConfig:
    """What schedulers read. Boundaries: a float is a fraction of the run, an int a step (1 is step 1, 1.0 the end)."""

    t1: int | float | None = setting(
        None,
        "First step of stage 2: a float is a fraction of the run, an int a step.",
        brief="First step of stage 2: a fraction or an int step",
    )
    t2: int | float | None = setting(
        None,
        "First step of stage 3, in the same way; linear, cosine, early_dropout: of the last stage.",
        brief="First step of stage 3, or of the last stage",
    )
    p_h: float | None = setting(
        None,
        "Sampling rate of attention heads in stages 1 and 2, in (0, 1]; linear, cosine: at the start; constant: "
        "always.",
        brief="Share of attention heads that is kept, in (0, 1]",
    )
    p_m: float | None = setting(
        None, "Sampling rate of MLP columns, in the same way.", brief="Share of MLP columns that is kept, in (0, 1]"
    )
    p_l: float | None = setting(
        None,
        "Sampling rate of layers in stage 1, in (0, 1]; layer_dropout: the probability of each layer to run.",
        brief="Share of layers kept in stage 1, in (0, 1]",
    )
    p_t: float | None = setting(
        None,
        "Share of each sequence's predictions that the loss is the mean of in stages 1 and 2, in (0, 1]; drawn anew in "
        "each step, and the LM head sees those positions alone. linear, cosine: at the start; constant: always; "
        "n_stage has it as a fourth number in stage.rates; null: 1, all.",
        brief="Share of predictions that the loss sees",
    )
    layer_rates: list[float] | None = setting(
        None,
        "A rate for each layer, in (0, 1]: what a layer leaves out is in proportion to 1 minus its rate, so that the "
        "mean over layers is p_h, p_m and, of the chance to run, p_l; 1 is a layer that is never sampled.",
        within=between("(0, 1]"),
        brief="Rates by layer, around the means p_h, p_m, p_l",
    )
    boundaries: int | float | list[int | float] | None = setting(
        None,
        "First steps of stages 2, 3, ... as t1 and t2 are written: a list, or one number; dense: of stages with a "
        "train.tokens_per_step or train.seq_len of their own.",
        items=_listed(_is_number, "a list of steps (int) and fractions of the run (float), such as [0.1,0.4]"),
        brief="First steps of stages 2, 3 and so on: a list",
    )
    rates: list[list[int | float]] | None = setting(
        None,
        "n_stage: a list with [p_h,p_m,p_l] or [p_h,p_m,p_l,p_t] for every stage, one more than there are boundaries.",
        items=_listed(
            _are_rates, "a list with [p_h,p_m,p_l] or [p_h,p_m,p_l,p_t] for each stage, such as [[0.5,0.5,0.5],[1,1,1]]"
        ),
        brief="n_stage: [p_h,p_m,p_l] of every stage",
    )
    depths: int | float | list[int | float] | None = setting(
        None,
        "raptr, gradual_stacking, g_stack, one_layer: the layers of every stage but the last, which has all; a list, "
        "or one number: an int is a number of layers, a float a share of them (1 is one layer, 1.0 all).",
        items=_listed(_is_number, "a list of numbers of layers (int) and shares of them (float), such as [1,0.5]"),
        brief="raptr, stacking: layers of each stage but the last",
    )
    levels: int | None = setting(
        None,
        "linear, cosine: the steps in which the rates grow, each with other shapes to compile.",
        within=at_least(1, most=MAX_STAGES - 1),
        brief="linear, cosine: steps in which the rates grow",
    )
    p_d: float | None = setting(
        None,
        "early_dropout: the share of the residual branches' outputs that dropout keeps, in (0, 1].",
        brief="early_dropout: share of outputs kept, in (0, 1]",
    )
    theta: float | None = setting(
        None,
        "pld: layer i of L (from 0) ends at the rate 1 - (1 - theta) i / L, all begin at 1; in (0, 1].",
        brief="pld: rate of the last layer at the end",
    )
    gamma: float | None = setting(
        None, "pld: how fast it goes there, per step; null: 100 / steps of the run.", within=above(0)
    )
