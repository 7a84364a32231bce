"""Draw the method, a step of each of the three stages: the picture in README.md.

    python docs/method_picture.py docs/method.svg

What is coloured was drawn by est_cli.est itself, for a model of six layers with four heads and eight MLP columns each,
at the rates and boundaries of the paper's GPT-2 (1/2; 2/15 and 7/15 of the steps). FLOPs are the ledger's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from est_cli.config import ModelConfig
from est_cli.config.model import preset_sizes
from est_cli.est import IndexGenerator, SamplingRates, Subnetwork, three_stage
from est_cli.est.flops import training_flops
from est_cli.est.sizes import SamplingOptions, full_sizes
from est_cli.est.subnetwork import sizes_of

LAYERS, HEADS, COLUMNS, STEPS = 6, 4, 8, 150
MODEL = ModelConfig(
    family="gpt2", vocab_size=64, hidden_size=16, num_layers=LAYERS, num_heads=HEADS, mlp_size=COLUMNS, max_positions=8
)
SPEC = preset_sizes(MODEL)
SEED = 4
ORANGE, BLUE, OFF, LINE, TEXT = "#d9822b", "#3b6fb6", "#ebedf0", "#c3c8cf", "#24292f"
WIDTH, HEIGHT, PANEL, TOP, ROW = 880, 330, 270, 84, 28
STAGES = [
    ("Stage 1", "some heads, columns and layers"),
    ("Stage 2", "some heads and columns, all layers"),
    ("Stage 3", "the complete model"),
]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/method_picture.py FILE.svg")
    Path(sys.argv[1]).write_text(picture(), "utf-8")


def picture() -> str:
    """The SVG file's text."""
    scheduler = three_stage(STEPS, 2 / 15, 7 / 15, SamplingRates(0.5, 0.5, 0.5))
    generator = IndexGenerator(SPEC, SEED, SamplingOptions(multiple_of=1))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" role="img">',
        "<title>A training step in each stage of Evolving Subnetwork Training: what is coloured runs</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
    ]
    begin = 0
    for number, stage in enumerate(scheduler.stages):
        drawn = generator.draw(begin, stage.rates)
        share = 100 * training_flops(SPEC, sizes_of(SPEC, drawn), 1, 8).blocks
        share //= training_flops(SPEC, full_sizes(SPEC), 1, 8).blocks
        steps = f"{100 * begin / STEPS:.0f} % to {100 * stage.until_step / STEPS:.0f} % of the steps"
        lines += _panel(18 + number * 290, *STAGES[number], f"{steps}; {share} % of the FLOPs", drawn)
        begin = stage.until_step
    lines += [*_legend(), "</svg>"]
    return "\n".join(lines) + "\n"


def _panel(x: int, name: str, words: str, cost: str, drawn: Subnetwork) -> Iterator[str]:
    yield _text(x, 28, name, 16, bold=True)
    yield _text(x, 46, words, 12)
    yield _text(x, 62, cost, 12)
    for layer in range(LAYERS):
        runs = drawn.layer_idx is None or layer in drawn.layer_idx
        heads = range(HEADS) if drawn.head_idx is None else drawn.head_idx[layer].tolist()
        columns = range(COLUMNS) if drawn.mlp_idx is None else drawn.mlp_idx[layer].tolist()
        y = TOP + (LAYERS - 1 - layer) * ROW
        yield f'<rect x="{x}" y="{y}" width="{PANEL - 16}" height="22" rx="4" fill="none" stroke="{LINE}"/>'
        for head in range(HEADS):
            yield _unit(x + 6 + head * 26, y + 4, 20, ORANGE if runs and head in heads else OFF)
        for column in range(COLUMNS):
            yield _unit(x + 124 + column * 16, y + 4, 11, BLUE if runs and column in columns else OFF)


def _legend() -> Iterator[str]:
    y = TOP + LAYERS * ROW + 24
    for x, width, colour, words in (
        (18, 20, ORANGE, "attention head that runs"),
        (230, 11, BLUE, "MLP column that runs"),
        (400, 20, OFF, "is left out of this step; the next step draws anew"),
    ):
        yield _unit(x, y, width, colour)
        yield _text(x + width + 8, y + 12, words, 12)
    yield _text(18, y + 38, "A row is a layer, the lowest one at the bottom. What does not run costs nothing.", 12)


def _unit(x: int, y: int, width: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="14" rx="2" fill="{colour}"/>'


def _text(x: int, y: int, words: str, size: int, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}"{weight} fill="{TEXT}">{words}</text>'


if __name__ == "__main__":
    main()
