"""What a report says first: of each group in one sentence what it saved, at which loss, how sure, what is missing.

A sentence claims a direction only where the 95 % interval excludes 0, and no savings of time that may be none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean

from est_cli.config.repeat import hydra_word, overrides_of, shell_line, without_places
from est_cli.reporting.claim import Claim, Difference, claims_of, how_far
from est_cli.reporting.groups import INTERVAL_FROM, Group
from est_cli.reporting.runs import Axis

MAX_ANSWERS = 4
"""Of more groups there is one sentence for all, and one of their own for those with the most seeds."""
SAVED = {Axis.dense_steps: "block FLOPs", Axis.flops_total: "all FLOPs", Axis.seconds: "step time"}
HIGHER, LOWER, OPEN, FEW, MISSING = "higher", "lower", "no difference shown", "too few seeds", "not compared"
"""What came of the comparison of a group's final validation loss with its dense twin's."""


@dataclass(frozen=True)
class Answer:
    group: str
    found: str
    """One of HIGHER and so on."""
    sentence: str
    difference: Difference | None = None
    """Of the final validation losses, nats per token."""
    saved: Mapping[Axis, Difference] = field(default_factory=dict)
    commands: Sequence[str] = ()
    """What to run for three seeds of both, none where nothing is missing; for a terminal: they tell where text lies."""
    shown: Sequence[str] = ()
    """The same for a report, which others may see: without these places."""


def answers_of(groups: Sequence[Group], claims: Sequence[Claim] | None = None) -> list[Answer]:
    """One for each group that is not dense, those with the most seeds first; commands for the first of them alone."""
    claims = claims_of(groups) if claims is None else claims
    ordered = sorted(claims, key=lambda claim: -len(claim.group.counted))
    answers = [_answer(claim, with_commands=number < MAX_ANSWERS) for number, claim in enumerate(ordered)]
    begun = [group for group in groups if not group.dense and not group.counted]
    return [*answers, *(Answer(group.label, MISSING, f"{how_far(group)}.", commands=_go_on(group)) for group in begun)]


def headline(answers: Sequence[Answer], groups: Sequence[Group]) -> str:
    """The first sentence of the page."""
    if not answers:
        return "Only dense runs are here: there is nothing to compare them with."
    if len(answers) == 1:
        return answers[0].sentence
    counts = {found: sum(answer.found == found for answer in answers) for found in (LOWER, OPEN, HIGHER, FEW, MISSING)}
    words = {
        LOWER: "with a lower final validation loss",
        OPEN: "with no difference shown",
        HIGHER: "with a higher final validation loss",
        FEW: "with not enough seeds to say",
        MISSING: "not compared yet",
    }
    told = ", ".join(f"{number} {words[found]}" for found, number in counts.items() if number)
    return f"{len(answers)} settings against their dense twins: {told}."


def _answer(claim: Claim, with_commands: bool) -> Answer:
    group, equal_steps = claim.group, claim.comparisons[0]
    difference = equal_steps.difference
    if difference is None:
        sentence = f"{group.label} {_counted(group)}; its loss is not compared yet: {equal_steps.note}."
        found = MISSING
    else:
        found = _found(difference)
        sentence = f"{group.label} {_saved(claim.saved)}; {_loss(difference, found)}."
    enough = difference is not None and difference.n >= INTERVAL_FROM
    pairs = [] if enough or not with_commands else list(_commands(claim))
    whole, shown = [whole for whole, _ in pairs], [shown for _, shown in pairs]
    return Answer(group.label, found, sentence, difference, claim.saved, whole, shown)


def _found(difference: Difference) -> str:
    if difference.interval is None:
        return FEW
    low, high = difference.interval
    return HIGHER if low > 0 else LOWER if high < 0 else OPEN


def _saved(saved: Mapping[Axis, Difference]) -> str:
    shown = {axis: found for axis, found in saved.items() if axis is not Axis.seconds or _is_shown(found)}
    parts = [f"{found.mean:.1f} % of {SAVED[axis]}" for axis in SAVED if (found := shown.get(axis)) is not None]
    if not parts:
        return "has saved an amount that its records do not tell"
    return "saved " + (parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}")


def _counted(group: Group) -> str:
    """Without a twin: what its own records count against dense training of as many steps."""
    pairs = {"flops_saved_pct_blocks": "block FLOPs", "flops_saved_pct_total": "all FLOPs"}
    known = {name: [run.summary[key] for run in group.counted if run.summary and key in run.summary]
             for key, name in pairs.items()}  # fmt: skip
    parts = [f"{fmean(values):.1f} % of {name}" for name, values in known.items() if values]
    return f"saved {' and '.join(parts)} by its own count" if parts else "is finished"


def _is_shown(found: Difference) -> bool:
    return found.interval is None or found.interval[0] > 0 or found.interval[1] < 0


def _loss(difference: Difference, found: str) -> str:
    seeds = f"{difference.n} seed{'s'[: difference.n > 1]}{'' if difference.paired else ', unpaired'}"
    if found == FEW:
        return (
            f"whether its final validation loss differs from the dense twin's ({difference.mean:+.4f} nats per token) "
            f"cannot be said: not enough seeds to say ({seeds})"
        )
    assert difference.interval is not None
    low, high = difference.interval
    sure = f"(95 % interval {low:+.4f} to {high:+.4f}, {seeds})"
    if found == OPEN:
        return f"no difference in final validation loss from the dense twin is shown {sure}"
    return (
        f"its final validation loss is {abs(difference.mean):.4f} nats per token {found} than the dense twin's {sure}"
    )


def _commands(claim: Claim) -> Iterator[tuple[str, str]]:
    """What makes three pairs of seeds, whole and as shown: runs that are not finished go on, the others begin."""
    group, twin = claim.group, claim.twin or claim.begun
    wanted = _wanted_seeds(group, twin)
    yield from _missing(group, wanted, group, dense=False)
    yield from _missing(twin, wanted, twin or group, dense=twin is None)


def _wanted_seeds(group: Group, twin: Group | None) -> list[int]:
    """Three: first those that both have finished, then one of them, then any."""
    mine, others = set(group.seeds), set(twin.seeds if twin else ())
    fresh = (seed for seed in count() if seed not in mine | others)
    ordered = [*sorted(mine & others), *sorted(mine ^ others)]
    return sorted([*ordered, *(next(fresh) for _ in range(INTERVAL_FROM))][:INTERVAL_FROM])


def _missing(group: Group | None, wanted: Iterable[int], like: Group, dense: bool) -> Iterator[tuple[str, str]]:
    """`group` has these seeds, or will have; `like` tells the settings, `dense`: of its dense twin."""
    done = set(group.seeds) if group else set()
    begun = {run.config.seed: run for run in group.runs if not run.finished} if group else {}
    missing = [seed for seed in wanted if seed not in done]
    yield from ((_resume(begun[seed].name),) * 2 for seed in missing if seed in begun)
    seeds = ",".join(str(seed) for seed in missing if seed not in begun)
    if not seeds:
        return
    overrides = overrides_of(like.runs[0].config, dense)
    if overrides is None:
        yield (f"# {like.label}: its own command again, with {'scheduler=dense ' if dense else ''}seed={seeds}",) * 2
    else:
        command = ["est-train", *(["-m"] if "," in seeds else []), f"seed={seeds}"]
        yield shell_line([*command, *overrides]), shell_line([*command, *without_places(overrides)])


def _go_on(group: Group) -> list[str]:
    return [_resume(run.name) for run in group.drawn]


def _resume(name: str) -> str:
    return shell_line(["est-train", f"resume={hydra_word(name)}"])
