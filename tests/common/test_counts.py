from est_cli.common.counts import counted


def test_one_is_singular() -> None:
    assert [counted(count, "step") for count in (0, 1, 2, 1200)] == ["0 steps", "1 step", "2 steps", "1,200 steps"]
    assert counted(1, "record is", "records are") == "1 record is" and counted(2, "x", "ys") == "2 ys"
