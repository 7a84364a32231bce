"""The pictures of docs/concepts/: `python docs/concept_pictures.py` draws them anew. Standard library only.

Each stands on a light card of its own, so that it can be read on a dark page too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent / "concepts"
INK, LINE = "#1f2937", "#9ca3af"
BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's, safe for colour-blind readers
T1, T2 = 2 / 15, 7 / 15
SHARES = ((0.0, 0.25), (T1, 0.5), (T2, 1.0))
"""Where each default stage begins, and the share of a full step's block FLOPs that it runs at rates of a half."""


def picture(name: str, width: int, height: int, title: str, parts: Iterable[str]) -> None:
    """Writes an SVG with a light background and a title for screen readers."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#fafafa"/>',
        *parts,
        "</svg>",
    ]
    (HERE / f"{name}.svg").write_text("\n".join(lines) + "\n")


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{fill}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", fill: str = INK, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}"{weight}>{words}</text>'


def line(points: Iterable[tuple[float, float]], colour: str, dashes: str = "none", width: float = 2) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    stroke = f'stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dashes}"'
    return f'<polyline points="{path}" fill="none" {stroke}/>'


def saving() -> list[str]:
    """The share of a full step's block FLOPs over the run; what is above it is saved."""
    left, top, width, height = 70, 30, 480, 180
    ends = [*(begin for begin, _ in SHARES[1:]), 1.0]
    parts = [box(left, top, width, height, "#fde8d7")]
    for (begin, share), end in zip(SHARES, ends, strict=True):
        x, tall = left + width * begin, height * share
        parts += [box(x, top + height - tall, width * (end - begin), tall, BLUE)]
    parts += [text(left + 8, top + 24, "saved", fill=ORANGE, bold=True)]
    parts += [text(left + width * 0.73, top + 96, "computed", "middle", "#ffffff", bold=True)]
    for share in (0.25, 0.5, 1.0):
        parts.append(text(left - 8, top + height * (1 - share) + 5, f"{share:.0%}", "end"))
    for at, words in ((0, "start"), (T1, "t1"), (T2, "t2"), (1, "end")):
        parts.append(text(left + width * at, top + height + 20, words, "middle"))
    return [*parts, text(left + width / 2, top + height + 42, "steps of the run", "middle")]


def a_run() -> list[str]:
    """What is saved on the way, and what a run that was killed does again."""
    left, width, y = 40, 620, 70
    parts = [line([(left, y), (left + width, y)], INK)]
    for at, words in ((T1, "stage 2"), (T2, "stage 3"), (0.8, "decay begins"), (1.0, "end")):
        x = left + width * at
        parts += [box(x - 6, y - 6, 12, 12, BLUE), text(x, y - 16, words, "middle")]
    killed, begin = left + width * 0.65, left + width * T2
    parts += [line([(killed - 6, y - 6), (killed + 6, y + 6)], ORANGE, width=3)]
    parts += [line([(killed - 6, y + 6), (killed + 6, y - 6)], ORANGE, width=3)]
    parts += [text(killed, y - 16, "killed", "middle", ORANGE)]
    parts += [line([(killed, y + 12), (killed, y + 34), (begin, y + 34), (begin, y + 14)], ORANGE, "5 4")]
    parts += [text((killed + begin) / 2, y + 52, "resume= does these steps again, with the same losses", "middle")]
    return [*parts, box(left, 140, 12, 12, BLUE), text(left + 20, 151, "checkpoint that is kept")]


def comparison() -> list[str]:
    """Equal steps and equal FLOPs on invented curves: no run gave them."""
    left, top, width, height = 60, 30, 480, 190

    def curve(end: float, low: float, bend: float) -> list[tuple[float, float]]:
        far = [n / 60 for n in range(61)]
        return [(left + width * end * x, top + 8 + height * (1 - low) * (1 - (1 - x) ** bend)) for x in far]

    dense, est = curve(1.0, 0.08, 3.0), curve(0.733, 0.26, 2.0)
    (x_est, y_est), (_, y_dense) = est[-1], dense[-1]
    parts = [line([(left, top), (left, top + height), (left + width, top + height)], LINE)]
    parts += [line(dense, INK), line(est, BLUE, "8 4")]
    parts += [text(left + width + 8, y_dense + 4, "dense"), text(x_est + 8, y_est - 8, "EST", fill=BLUE)]
    parts += [line([(x_est, y_est), (x_est, top + height)], ORANGE, "3 3")]
    parts += [text(x_est, top + height + 18, "equal FLOPs: compare here", "middle", ORANGE)]
    parts += [line([(x_est, y_est), (left + width, y_est), (left + width, y_dense)], LINE, "3 3", 1)]
    parts += [text(left + width + 8, y_est - 6, "equal steps:"), text(left + width + 8, y_est + 10, "compare the ends")]
    parts += [text(left + width / 2, top + height + 40, "FLOPs used so far", "middle")]
    return [*parts, text(left - 10, top - 10, "validation loss")]


def main() -> None:
    """Draws all of them."""
    HERE.mkdir(exist_ok=True)
    picture("saving", 580, 268, "Share of the block FLOPs that each stage computes", saving())
    picture("run", 700, 168, "The checkpoints of a run, and a run that was killed", a_run())
    picture("comparison", 680, 282, "Equal steps and equal FLOPs", comparison())


if __name__ == "__main__":
    main()
