"""How a run of several processes ended, from how each of them did."""

from __future__ import annotations

import signal

import pytest

from est_cli.cli.launch.exit_status import WorkerStatus, overall_error
from est_cli.common.errors import EstError, StoppedBySignal

LOST = "rank 0: the group is broken"
AT = "resume=outputs/x continues from the last checkpoint"
SAVED = "outputs/x: saved at step 7; resume=outputs/x continues"
UNSAVED = "by SIGTERM before a checkpoint could be saved"

CASES: dict[str, tuple[list[tuple[int | None, str | None]], int | None, tuple[int, str] | None]] = {
    "all is well": ([(0, None), (0, None)], None, None),
    "done before the signal came": ([(0, None), (0, None)], 15, None),
    "an error of all": ([(3, "a.txt: bad"), (3, "a.txt: bad")], None, (3, "a.txt: bad")),
    "an error of one": ([(7, LOST), (6, "disk: full")], None, (6, "rank 1: disk: full")),
    "out of memory": ([(7, LOST), (9, "train.micro_batch: out")], None, (9, "rank 1: train.micro_batch: out")),
    "an error comes before a death": ([(-9, None), (4, "step-1: bad")], None, (4, "rank 1: step-1: bad")),
    "killed": ([(7, LOST), (-9, None)], None, (7, f"rank 1: killed by SIGKILL; {AT}")),
    "the first is killed": ([(-11, None), (7, "x")], None, (7, f"rank 0: killed by SIGSEGV; {AT}")),
    "killed by a signal without a name": ([(-40, None), (7, "x")], None, (7, f"rank 0: killed by signal 40; {AT}")),
    "killed, and the other fails oddly": (
        [(1, "RuntimeError"), (-9, None)],
        None,
        (7, f"rank 1: killed by SIGKILL; {AT}"),
    ),
    "killed, and the other does not end": ([(None, None), (-9, None)], None, (7, f"rank 1: killed by SIGKILL; {AT}")),
    "killed after a signal": ([(7, LOST), (-9, None)], 15, (7, f"rank 1: killed by SIGKILL; {AT}")),
    "a bug": ([(7, LOST), (1, "KeyError")], None, (1, "rank 1: ended by a bug; its traceback is above")),
    "an odd exit code": ([(120, None), (0, None)], None, (1, "rank 0: ended by a bug; its traceback is above")),
    "stopped after a save": ([(143, SAVED), (143, SAVED)], 15, (143, SAVED)),
    "stopped by Ctrl-C": ([(143, SAVED), (143, SAVED)], 2, (130, SAVED)),
    "stopped by a hangup": ([(143, SAVED), (143, SAVED)], 1, (129, SAVED)),
    "only the first has saved": ([(143, SAVED), (None, None)], 15, (143, SAVED)),
    "stopped before training": ([(-15, None), (-15, None)], 15, (143, UNSAVED)),
    "a part was training already": ([(7, LOST), (-15, None)], 15, (143, UNSAVED)),
    "given up after more signals": ([(None, None), (None, None)], 15, (143, UNSAVED)),
    "somebody else sent the signal to one": ([(143, SAVED), (143, SAVED)], None, (143, SAVED)),
    "somebody else killed one": ([(7, LOST), (-15, None)], None, (7, f"rank 1: killed by SIGTERM; {AT}")),
    "all lost each other": ([(7, "parameters differ"), (7, "x")], None, (7, "parameters differ")),
    "the second alone says so": ([(0, None), (7, "parameters differ")], None, (7, "rank 1: parameters differ")),
    "one does not answer": ([(7, LOST), (None, None)], None, (7, "rank 1: hangs, and did not answer in time")),
    "aborted like NCCL": ([(-6, None), (None, None)], None, (7, "rank 1: hangs, and did not answer in time")),
    "all aborted": ([(-6, None), (-6, None)], None, (7, "rank 0, rank 1: ended by SIGABRT, as NCCL does")),
    "one aborted": ([(7, LOST), (-6, None)], None, (7, f"{LOST} (rank 1: SIGABRT)")),
    "one does not answer to a signal either": ([(7, LOST), (None, None)], 15, (7, "rank 1: hangs, and did not")),
}


@pytest.mark.parametrize("case", CASES)
def test_verdict(case: str) -> None:
    ends, signum, expected = CASES[case]
    error = overall_error([WorkerStatus(rank, code, message) for rank, (code, message) in enumerate(ends)], signum, AT)
    if expected is None:
        assert error is None
        return
    assert isinstance(error, EstError | StoppedBySignal)
    code, told = expected
    assert error.exit_code == code and str(error).startswith(told)
    assert isinstance(error, StoppedBySignal) == (code > 128)


def test_a_stopped_rank_is_named_before_those_that_wait_for_it() -> None:
    ends = [
        WorkerStatus(0, 7, LOST),
        WorkerStatus(1, None),
        WorkerStatus(2, None, state="stopped"),
        WorkerStatus(3, None),
    ]
    line = f"rank 2: stopped, and did not answer in time (launch.timeout_s); {AT}"
    assert str(overall_error(ends, None, AT)) == line


def test_before_there_is_a_run_there_is_nothing_to_continue() -> None:
    error = overall_error([WorkerStatus(0, -9), WorkerStatus(1, None)], None, "no step was done")
    assert str(error) == "rank 0: killed by SIGKILL; no step was done"


def test_whose_end_lets_the_others_go_on() -> None:
    assert [code for code in (None, 0, 143, 130, 1, 7, -15, -9, 141) if WorkerStatus(1, code).failed] == [
        1,
        7,
        -15,
        -9,
        141,
    ]
    assert signal.SIGTERM == 15
