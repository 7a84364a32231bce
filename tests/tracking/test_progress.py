import io

from rich.console import Console

from est_cli.tracking.progress import PLAIN_EVERY_S, RunProgress, StagePlan

STAGES = [StagePlan(1, 50, 1.0), StagePlan(2, 100, 2.0)]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run(out, step_s, terminal=False, first_step=0):
    clock = Clock()
    progress = RunProgress(100, first_step, STAGES, Console(file=out, force_terminal=terminal, width=200), clock)
    for step in range(first_step + 1, 101):
        clock.now += step_s
        progress.update(step, 1 + (step > 50), step_s, 1 / step, 50.0, 25.0, 1234.5, 0.5)
    progress.close()
    return out.getvalue()


def test_plain_lines_every_five_percent_of_a_quick_run():
    lines = run(io.StringIO(), step_s=0.01).splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/100" for step in range(5, 101, 5)]
    assert lines[0].startswith("step 5/100  stage 1/2  loss 0.2000  saved 50.0 % (end 25.0 %)  1,23")
    assert not any("\x1b" in line for line in lines)


def test_plain_lines_every_minute_of_a_slow_run():
    assert len(run(io.StringIO(), step_s=PLAIN_EVERY_S).splitlines()) == 100


def test_the_time_left_knows_that_stage_two_is_dearer():
    line = run(io.StringIO(), step_s=6.0).splitlines()[0]
    assert line.startswith("step 5/") and line.endswith("left 14:30")  # 45 steps of 6 s and 50 of 12 s


def test_resumed_run_counts_from_where_it_stood():
    assert run(io.StringIO(), step_s=0.01, first_step=50).splitlines()[0].startswith("step 55/100  stage 2/2")


def test_messages_are_written_as_they_are():
    out = io.StringIO()
    text = "stage 1 -> 2 [bold]kept[/bold] " + "x" * 300
    RunProgress(100, 0, STAGES, Console(file=out, width=80)).line(text)
    assert out.getvalue() == text + "\n"


def test_a_terminal_gets_a_panel_that_goes_at_the_end():
    shown = run(io.StringIO(), step_s=0.5, terminal=True)
    assert "\x1b" in shown and "step 100 of 100" in shown and "loss 0.0100" in shown and "left 00:00" in shown
    after = shown.rpartition("╯")[2]
    assert after.count("\x1b[1A\x1b[2K") == 5  # each of its lines is erased
    assert "\x1b[?25h" in after  # the cursor is seen again


def test_on_a_terminal_a_long_message_goes_on_between_words():
    out = io.StringIO()
    progress = RunProgress(100, 0, STAGES, Console(file=out, width=40, force_terminal=True, height=30), quiet=True)
    path = "outputs/" + "x" * 60
    progress.line("stages    1: 13 steps at p_h=0.5, 2: 34 steps at p_h=0.5")
    progress.line(f"model in {path}")
    assert out.getvalue().splitlines() == ["stages    1: 13 steps at p_h=0.5, 2: 34", "          steps at p_h=0.5",
                                           "model in", f"  {path}"]  # fmt: skip
