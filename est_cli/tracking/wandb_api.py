"""The calls of the wandb library, which is imported here and nowhere else.

What it collects by itself of command line, environment, git and code is switched off: it gets what it is given.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from est_cli.config import TrackingConfig
from est_cli.tracking.names import GROUPS, NAMES, axes, tracker_name
from est_cli.tracking.records import FIELDS, In
from est_cli.tracking.wandb_identity import Identity

OFFLINE_FINISH_S = 3.0

QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "symlink": False,
    "use_dot_wandb": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "label_disable": True,
    "host": "",
    "program": "",
    "x_executable": "python",
    "x_disable_meta": True,  # no environment record: host, user, folders, arguments
}

_MIRRORED = (In.step, In.validation)


@dataclass(frozen=True)
class Opening:
    """All that is needed to open a run, whenever the server lets us."""

    identity: Identity
    config: Mapping[str, Any]
    tracking: TrackingConfig
    commit: str | None
    names: int
    on_stop: Callable[[], None]
    """Called from a thread of W&B when somebody stops the run on its page."""


def base_url() -> str:
    """Where W&B's server is, by its variables and files. The library is loaded and quiet from here on."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # exception texts are not sent to W&B
    if os.environ.get("WANDB_MODE") == "":
        del os.environ["WANDB_MODE"]  # W&B refuses an empty value; everybody else takes it as unset
    logging.raiseExceptions = False  # on a full disk each line of W&B's own log would be a traceback on stderr
    _quieten_threads()
    import wandb

    return str(wandb.setup(wandb.Settings(**QUIET)).settings.base_url)


def _quieten_threads() -> None:
    """Threads of wandb that lose its process print what they came across; nobody can do anything about it."""
    before = threading.excepthook

    def not_of_wandb(args: threading.ExceptHookArgs) -> None:
        if not any("wandb" in frame.filename for frame in traceback.extract_tb(args.exc_traceback)):
            before(args)

    if getattr(before, "__name__", "") != not_of_wandb.__name__:
        threading.excepthook = not_of_wandb


def open_run(opening: Opening, mode: Literal["online", "offline"], timeout_s: float) -> Any:
    """The run, with its charts and summaries defined. Raises whatever wandb does."""
    import wandb

    tracking = opening.tracking
    settings = QUIET | {
        "x_disable_stats": not tracking.system,
        "x_disable_machine_info": not tracking.system,  # which the above needs; what it is made of is off by itself
        "x_save_requirements": tracking.requirements,
        "git_commit": opening.commit if tracking.commit else None,
        "stop_fn": opening.on_stop,
        "init_timeout": timeout_s,
        "finish_timeout": tracking.timeout_s if mode == "online" else OFFLINE_FINISH_S,
    }
    Path(opening.identity.dir).mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        mode=mode,
        resume="allow",
        settings=wandb.Settings(**settings),
        config=dict(opening.config),
        **asdict(opening.identity),
    )
    define_metrics(run, opening.names)
    return run


def define_metrics(run: Any, names: int) -> None:
    """Charts are over steps, and may be over tokens or FLOPs; a run's row has the extremes beside the last values."""
    for axis in axes(names):
        run.define_metric(axis)
    for group in GROUPS:
        run.define_metric(f"{group}/*", step_metric="step")
    if names == NAMES:
        for field in FIELDS:
            if field.extreme and set(field.where) & set(_MIRRORED):
                run.define_metric(tracker_name(field.name), step_metric="step", summary=f"{field.extreme},last")


def alert(run: Any, title: str, text: str, level: str) -> None:
    """`level`: INFO, WARN or ERROR. The same title is told once in a minute at most."""
    run.alert(title=title, text=text, level=level)


def log_table(run: Any, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], step: int) -> None:
    """A table as a file of the run. As an artifact, which log() makes of one, it would tell where it lies here."""
    import wandb

    table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
    table.bind_to_run(run, key, step)
    run.log({key: table.to_json(run)}, step=step)


def log_images(run: Any, images: Mapping[str, Path], step: int) -> None:
    """Pictures by their keys; a file that cannot be read as one is left out."""
    import wandb

    for key, path in images.items():
        with suppress(OSError):
            run.log({key: wandb.Image(str(path))}, step=step)


@contextmanager
def model_artifact(run: Any, folder: Path, metadata: Mapping[str, Any]) -> Iterator[None]:
    """The files of `folder` as the artifact `model-RUN_ID`; the block ends when they are sent.

    They are named by a link in a temporary folder: an artifact tells the server where its files lie.
    """
    import wandb

    with tempfile.TemporaryDirectory(prefix="wandb-", dir="/tmp" if os.access("/tmp", os.W_OK) else None) as place:
        link = Path(place) / "model"
        link.symlink_to(folder.resolve(), target_is_directory=True)
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=dict(metadata))
        for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink()):
            artifact.add_file(str(link / path.name), name=path.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
        yield


def close_run(run: Any, exit_code: int) -> None:
    """Write or send what is left, within the `finish_timeout` that the run was opened with."""
    run.finish(exit_code=exit_code)


def end_process() -> None:
    """Have W&B's process end now, whatever it waits for: it would outlive this one, and hold its terminal.

    What it has not sent stands in metrics.jsonl.
    """
    import wandb

    process = None
    with suppress(Exception):  # no interface of wandb tells it
        process = wandb.setup()._connection._proc._process
    thread = threading.Thread(target=_teardown_quietly, daemon=True)
    thread.start()
    thread.join(0.5)
    if process is not None and process.poll() is None:
        process.kill()
        thread.join(0.5)


def _teardown_quietly() -> None:
    with suppress(Exception):
        teardown()


def teardown() -> None:
    """End W&B's process. Without it this is tried, unguarded and unbounded, when Python exits."""
    import wandb

    wandb.teardown()
