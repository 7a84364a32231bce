"""The hub's side of est-push: what lies in the repository, one commit, and what its refusals mean.

A push is one commit on the state of the repository that was looked at, so that it is there as a whole or not at all and
may be tried again. What is told of an error is our own words, the hub's status and its message, without the token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id

import est_cli
from est_cli.common.errors import ConfigError, EstError, StorageError, reason
from est_cli.common.redact import one_line
from est_cli.common.urls import is_loopback, scheme_of

WEIGHTS = "model.safetensors"
WAITS_S = (2.0, 10.0)
"""Between tries; huggingface_hub tries most requests several times by itself."""
TIMEOUT_S = 60.0
MAY_PASS = (408, 425, 429)
"""Answers below 500 that another try may change."""
KEPT = (".gitattributes",)
"""What the hub puts into a repository by itself."""
log = logging.getLogger(__name__)


class Passing(StorageError):
    """The hub did not answer, or not as it should: another try may help."""


def check_repo(repo: str) -> None:
    """ConfigError unless `repo` can be USER/NAME."""
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise ConfigError("command line: the repository is USER/NAME, of letters, digits and `_ . -`")


def check_login() -> None:
    """ConfigError where there is no token, or a hub that must not see it."""
    endpoint = constants.ENDPOINT
    if scheme_of(endpoint) != "https" and not is_loopback(endpoint):
        raise ConfigError(f"HF_ENDPOINT: {one_line(endpoint)} would be sent the token unencrypted; use https://")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE: is set, so nothing can be sent; unset it, or use --dry-run")
    if get_token() is None:
        raise ConfigError(
            "HF_TOKEN: there is none, and no other login; `hf auth login`, or set it to a token that may write"
        )


def push(files: Mapping[str, Path | bytes], digest: str, repo: str, public: bool, replace: bool) -> str:
    """Make `files` the content of the repository, which is made where it is not there; returns the commit's address.

    `digest`: SHA-256 of the weights, by which the same model is known again. `replace`: also where the repository
    holds another one. Raises ConfigError and StorageError.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return _pushed(files, digest, repo, public, replace)
        except EstError:
            raise
        except Exception as error:  # of the transfer, of huggingface_hub, or of what either makes of an answer
            told = _told(error, repo)
            if wait_s is None or not isinstance(told, Passing):
                raise told from None  # whatever the request was, with its headers
            log.warning("%s; tried again in %g s", told, wait_s)
            time.sleep(wait_s)
    raise AssertionError


def _pushed(files: Mapping[str, Path | bytes], digest: str, repo: str, public: bool, replace: bool) -> str:
    api = HfApi()
    found = _look(api, repo)
    if found is None:
        api.create_repo(repo, private=not public, exist_ok=True)
        found = api.model_info(repo, files_metadata=True, timeout=TIMEOUT_S)
    names = {sibling.rfilename for sibling in found.siblings or ()} - {*KEPT}
    if names and not replace and _weights_digest(found) != digest:
        raise ConfigError(
            f"{repo}: holds files of another model, or of something else; choose another name, or take --replace to "
            "have this one in their place (its history keeps them)"
        )
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in sorted(files.items())
    ]
    if replace:
        operations += [CommitOperationDelete(name) for name in sorted(names - {*files})]
    message = f"Model of a run of est {est_cli.__version__}"
    return str(api.create_commit(repo, operations, commit_message=message, parent_commit=found.sha).commit_url)


def _look(api: HfApi, repo: str) -> ModelInfo | None:
    """What the repository holds; None where it is not there."""
    try:
        return api.model_info(repo, files_metadata=True, timeout=TIMEOUT_S)
    except HfHubHTTPError as error:
        if error.response.status_code == 404:
            return None
        raise


def _weights_digest(found: ModelInfo) -> str | None:
    return next((s.lfs.sha256 for s in found.siblings or () if s.rfilename == WEIGHTS and s.lfs), None)


def _told(error: BaseException, repo: str) -> Exception:
    """The error for the user, or the one that it is."""
    said = _without_token(reason(error))
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            return _answered(cause.response.status_code, repo, _without_token(cause.server_message or ""))
        if isinstance(cause, OfflineModeIsEnabled):
            return ConfigError("HF_HUB_OFFLINE: is set, so nothing can be sent; unset it")
        if isinstance(cause, OSError) or _of_transfer(cause):
            return Passing(f"{constants.ENDPOINT}: the transfer broke ({_without_token(reason(cause))})")
    if "Invalid metadata" in said:
        return ConfigError(f"README.md: the hub does not take its head: {said}")
    if isinstance(error, ValueError | KeyError | RuntimeError):
        return Passing(f"{constants.ENDPOINT}: gives answers that nobody understands ({said})")
    return error if isinstance(error, Exception) else StorageError(said)


def _of_transfer(error: BaseException) -> bool:
    """Whether it is of the client that huggingface_hub uses: httpx, or what has taken its place by now."""
    return any(kind.__name__ == "HTTPError" and kind.__module__.startswith("httpx") for kind in type(error).__mro__)


def _answered(status: int, repo: str, message: str) -> EstError:
    more = f": {message}" if message else ""
    if status == 401:
        return ConfigError(f"HF_TOKEN: the hub does not know this login (401{more}); `hf auth login` makes a new one")
    if status == 403:
        return ConfigError(f"{repo}: this login may not write there (403{more}); use a token that may, or another name")
    if status == 404:
        return ConfigError(f"{repo}: is not found (404{more}); USER is you, or an organisation that you belong to")
    if status in (409, 412):
        return Passing(f"{repo}: was changed by somebody else in the meantime ({status}{more})")
    if status in MAY_PASS or status >= 500:
        return Passing(f"{constants.ENDPOINT}: answers {status}{more}")
    return StorageError(f"{repo}: the hub refuses it ({status}{more})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _without_token(text: str) -> str:
    token = get_token()
    text = one_line(text)[:200]
    return text.replace(token, "...") if token else text
