import pytest

from est_cli.common.errors import ConfigError
from est_cli.evaluation.glue import TASKS, resolve_tasks


def test_there_are_nine() -> None:
    assert list(TASKS) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
    assert [name for name, task in TASKS.items() if task.is_regression] == ["stsb"]
    assert [name for name, task in TASKS.items() if len(task.dev_splits) > 1] == ["mnli"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["glue"], [*TASKS]),
        (["rte", "cola"], ["cola", "rte"]),
        (["wnli", "glue", "wnli"], [*TASKS]),
        ([], []),
    ],
)
def test_names_are_resolved_in_the_order_of_glue(names: list[str], expected: list[str]) -> None:
    assert [task.name for task in resolve_tasks(names)] == expected


@pytest.mark.parametrize(
    ("name", "told"),
    [("SST-2", "did you mean 'sst2'?"), ("colla", "did you mean 'cola'?"), ("hellaswag", "it is one of cola, sst2")],
)
def test_an_unknown_name(name: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_tasks(["cola", name])
    assert str(error.value).startswith(f"task: there is no GLUE task {name!r}; {told}")
