"""The hub itself: whether it answers, which commit a name means, and what it says where something is not to be had.

Without a network the libraries' own calls retry for half a minute and then do not say what to do, so the hub is asked
once first. Set HF_HUB_OFFLINE=1 to use only what was downloaded before.
"""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache

from est_cli.common.errors import ConfigError, DataError, reason
from est_cli.common.nearby import did_you_mean, looks_like_a_path, no_folder

TIMEOUT_S = 5.0
HUB_TIMEOUT_S = 60.0
GATED = re.compile(r"(?<!private or )gated (repo|dataset)")
"""What messages have; that of a name which nobody knows speaks of `private or gated` ones."""
PATHS_AT_ONCE = 500
"""Files whose sizes the hub is asked for in one request."""


def require_hub(key: str, name: str, way_out: str, or_folder: bool = True) -> None:
    """Return where the hub answers or HF_HUB_OFFLINE is set; otherwise raise DataError, within TIMEOUT_S.

    `or_folder`: the name may have meant a folder, which is not there: that is said first.
    """
    if or_folder and looks_like_a_path(name):
        raise DataError(f"{key}: {no_folder(name)}")
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        near = did_you_mean(name) if or_folder else ""
        raise DataError(f"{key}: {name!r} is neither a folder nor the name of something on the hub{near}")
    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return
    here = f"{no_folder(name)}; as a name of the hub " if or_folder else ""
    raise DataError(
        f"{key}: {here}{name!r} cannot be fetched, {constants.ENDPOINT} does not answer; {way_out}, "
        "or set HF_HUB_OFFLINE=1 if it was downloaded here before"
    )


def _answers(url: str) -> bool:
    """Whether one small request gets any answer; in a thread, because name look-up knows no timeout."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return answered.is_set()


def data_set_revision(name: str, wanted: str | None = None) -> str:
    """The commit that the hub has now, or the one that a branch, a tag or its beginning means."""
    try:
        return str(HfApi().dataset_info(name, revision=wanted, timeout=HUB_TIMEOUT_S).sha)
    except Exception as error:  # whatever the network raises
        if is_gated(error):
            raise DataError(f"dataset.hub_ids: {name!r} {how_to_enter(f'datasets/{name}')}") from error
        at = "" if wanted is None else f" at dataset.revision={wanted}"
        raise DataError(f"dataset.hub_ids: {name!r} cannot be found on the hub{at} ({reason(error)})") from error


def file_sizes(name: str, revision: str, files: Sequence[str]) -> list[int]:
    """The bytes of data files on the hub; none where it does not say."""
    prefix = f"hf://datasets/{name}@{revision}/"
    paths = [file.removeprefix(prefix) for file in files]
    try:
        known: dict[str, int] = {}
        for first in range(0, len(paths), PATHS_AT_ONCE):
            some = paths[first : first + PATHS_AT_ONCE]
            infos = HfApi().get_paths_info(name, some, revision=revision, repo_type="dataset")
            known |= {info.path: int(getattr(info, "size", 0)) for info in infos}
        return [known[path] for path in paths]
    except Exception:  # they are for telling how long it takes, and nothing else
        return []


def commit_here(name: str, revision: str | None, files: Sequence[str]) -> str | None:
    """The commit of what was loaded of a model or tokenizer of the hub, by the first of `files` that is kept here.

    None of a folder, and where none of them is.
    """
    for file in () if Path(name).is_dir() else files:
        path = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            return Path(path).parent.name
    return None


def refuse_revision(key: str, place: str, revision: str | None) -> None:
    """Raise ConfigError where a folder is to have a revision, which only the hub knows."""
    if revision is not None and Path(place).is_dir():
        raise ConfigError(f"{key}: {place} is a folder, which has no revisions; leave it null")


def is_gated(error: BaseException) -> bool:
    """Whether something is refused because its terms were not accepted, whatever the libraries made of that."""
    while True:
        if type(error).__name__ == "GatedRepoError" or GATED.search(str(error)):
            return True
        cause = error.__cause__ or error.__context__
        if cause is None:
            return False
        error = cause


def how_to_enter(page: str) -> str:
    """Completes the message about something that is gated."""
    return (
        f"is gated: accept its terms on {constants.ENDPOINT}/{page}, then log in here with `hf auth login` "
        "(or set HF_TOKEN)"
    )
