"""What analysis=prices found, for people."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from est_cli.est.prices import Z95
from est_cli.reporting.drawing import BLUE, GREEN, GREY, ORANGE, PINK, SKY, labelled, legend_below, new_figure, tidy

COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY)


def prices_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for each moment, kind and rate."""
    rows = []
    for moment in result["moments"]:
        gain, steps = moment["gain"], result["steps"]
        gained = f"{steps * gain['mean']:.4f} ± {steps * gain['standard_error']:.1g}"
        rows.append([f"step {moment['step']}: {steps} complete steps gain", gained, "", "", "", ""])
        for offer in (*moment["offers"], *moment["parts"]):
            saved = [f"{100 * offer['saved'][name]:.1f} %" for name in ("total", "seconds")]
            prices = [_price(offer["price"][name]) for name in ("blocks", "total")]
            rows.append([f"  {_name(offer)}", _estimate(offer["cost"]), *saved, *prices])
    return ["sampled", "loss lost", "saved total", "seconds", "price blocks", "price total"], rows


def price_notes(result: dict[str, Any]) -> list[str]:
    """What the numbers are."""
    about = (
        "price: complete steps lost for each step's FLOPs saved, ± standard error; 1 is dense training of fewer steps, "
        f"0 costs nothing. Losses are of the complete model (nats), after {result['steps']} sampled steps and "
        f"{result['cooldown']} complete ones in which the learning rate falls to 0"
    )
    untold = [
        f"step {moment['step']}: what complete steps gain is not told from 0, so nothing has a price; take more "
        "analyze.tokens or analyze.steps"
        for moment in result["moments"]
        if any(offer["lost"] is None for offer in moment["offers"])
    ]
    return [about, *untold]


def _name(offer: dict[str, Any]) -> str:
    first, last = offer.get("layers", (None, None))
    where = "" if first is None else f" of layer {first}" if first == last else f" of layers {first}-{last}"
    return f"{offer['kind']} at {offer['rate']:g}{where}"


def _estimate(one: dict[str, float]) -> str:
    return f"{one['mean']:+.4f} ± {one['standard_error']:.1g}"


def _price(one: dict[str, float] | None) -> str:
    return "-" if one is None else f"{one['mean']:.2f} ± {one['standard_error']:.2g}"


def prices_figure(result: dict[str, Any]) -> Figure:
    """The price (total FLOPs) of each kind and rate with its 95 % interval, a colour for each moment."""
    offers = [[*moment["offers"], *moment["parts"]] for moment in result["moments"]]
    names = [_name(offer) for offer in offers[0]]
    figure = new_figure(7.0, 1.6 + 0.3 * len(names))
    axes, moments = figure.subplots(), result["moments"]
    for number, moment in enumerate(moments):
        found = [(row, offer["price"]["total"]) for row, offer in enumerate(offers[number])]
        told = [(row, price) for row, price in found if price is not None]
        places = np.array([len(names) - 1 - row for row, _ in told]) - 0.12 * (number - (len(moments) - 1) / 2)
        axes.errorbar(
            [price["mean"] for _, price in told],
            places,
            xerr=[Z95 * price["standard_error"] for _, price in told],
            fmt="o",
            markersize=4,
            capsize=2,
            color=COLOURS[number % len(COLOURS)],
            label=f"step {moment['step']}",
        )
    axes.axvline(1.0, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="dense, fewer steps", zorder=1)
    axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(names)), reversed(names))
    axes.set_xlabel("steps lost for each step's FLOPs saved (total), 95 % interval")
    tidy(axes)
    figure.suptitle("Prices of sampling", fontsize=10)
    legend_below(figure, labelled([axes]), columns=4)
    return figure
