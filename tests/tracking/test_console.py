"""Lines for somebody far away: what they tell stays, where things lie and who somebody is does not."""

from __future__ import annotations

import pytest

from est_cli.tracking.console import redacted


@pytest.mark.parametrize(
    "line",
    [
        "step 5/300  stage 1/3  loss 5.1234  saved 75.0 % (end 26.9 %)  1,240 tok/s  left 01:20",
        "run       x1 on cpu, W&B auto",
        "stage 1 -> 2 at step 75: loss 5.2 -> 4.8",
        "stages    1: 75 steps at p_h=0.5 p_m=0.5 p_l=0.5, 2: 75 steps at p_h=1 p_m=1 p_l=1",
        "sample at step 3: if a/b: return 1.5/2",
    ],
)
def test_what_a_run_tells_stays(line: str) -> None:
    assert redacted(line) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("warning: /home/ann/x/metrics.jsonl: lost", "warning: <path> lost"),
        ("in '/home/ann/my run/x'", "in '<path>'"),
        ("see ~/x, ~ann/y and ../up/z", "see <path>, <path> and <path>"),
        ("file:///scratch/ann/a", "<path>"),
        ("reads corpus/private/a.jsonl now", "reads <path> now"),
        ("reads ann/part.txt", "reads <path>"),
        ("https://ann:pw@host/a?sig=1", "https://host/a?..."),
        ("HF_TOKEN=hf_abcdefghij1234, api_key: xyz", "HF_TOKEN=<secret> api_key: <secret>"),
        ("key 0123456789abcdef0123456789abcdef01234567", "key <secret>"),
        ("\x1b[2Jgone", "?[2Jgone"),
    ],
)
def test_places_and_secrets_do_not(line: str, expected: str) -> None:
    assert redacted(line) == expected
