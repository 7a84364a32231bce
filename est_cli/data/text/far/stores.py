"""Files in S3, in Google's storage and on the hub, by fsspec's file systems; logins are those of their own libraries.

Every function raises Broken where another try may help, and DataError where none will.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from est_cli.common.errors import DataError, install_hint
from est_cli.common.redact import one_line
from est_cli.common.urls import scheme_of
from est_cli.data.text.far.file import Broken, FarFile

TIMEOUT_S = 300.0
"""For a listing, or a block of a file; the libraries have shorter ones for connections."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""They are extras of est, of the same names as the schemes; what reads the hub is always there."""
TAGS = ("generation", "ETag", "etag", "blob_id", "md5Hash", "LastModified", "updated", "mtime")
"""What says which content a file has, in the words of the file systems: the surest first."""
NO_LOGIN = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")


def find(pattern: str) -> list[FarFile]:
    """The files that an address, or a glob of addresses, means; a glob's matches sorted."""
    if not re.search(r"[*?\[]", pattern):
        return [stat(pattern)]
    scheme = scheme_of(pattern)
    found: dict[str, Any] = _called(pattern, "glob", _path(pattern), detail=True)
    infos = {f"{scheme}://{path.lstrip('/')}": info for path, info in sorted(found.items())}
    return [_described(url, info) for url, info in infos.items() if info["type"] == "file"]


def stat(url: str) -> FarFile:
    """What the store says of a file now."""
    _system(url).invalidate_cache()
    info = _called(url, "info", _path(url))
    if info["type"] != "file":
        raise DataError(f"{url}: is a folder; name its files, for example '{url.rstrip('/')}/*.txt'")
    return _described(url, info)


def read(file: FarFile, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to before `stop`, at once."""
    yield _called(file.url, "cat_file", _path(file.url), start=start, end=stop)


def _path(url: str) -> str:
    return url.partition("://")[2]


def _described(url: str, info: dict[str, Any]) -> FarFile:
    sha256 = (info.get("lfs") or {}).get("sha256")
    tag = f"sha256 {sha256}" if sha256 else next((f"{name} {info[name]}" for name in TAGS if info.get(name)), None)
    if tag is None or info.get("size") is None:
        raise DataError(f"{url}: the store tells nothing by which the file could be known again; download it")
    return FarFile(url, int(info["size"]), tag)


@lru_cache(maxsize=len(PACKAGES) + 1)
def _opened(scheme: str) -> Any:
    import fsspec  # these files alone need it

    return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)


def _system(url: str) -> Any:
    scheme = scheme_of(url)
    try:
        return _opened(scheme)
    except ImportError as error:
        raise DataError(f"{url}: needs {PACKAGES.get(scheme, error.name)}: {install_hint(scheme)}") from error
    except Exception as error:  # whatever the library finds wrong with its own settings
        raise DataError(f"{url}: cannot be read ({_told(error)})") from error


def _called(url: str, name: str, *arguments: Any, **options: Any) -> Any:
    system = _system(url)
    function: Callable[..., Any] = getattr(system, name)
    limit = {"timeout": TIMEOUT_S} if system.async_impl else {}
    try:
        return function(*arguments, **options, **limit)
    except FileNotFoundError as error:
        raise DataError(f"{url}: there is no such file") from error
    except PermissionError as error:
        raise DataError(f"{url}: may not be read with the login of this environment ({_told(error)})") from error
    except Exception as error:  # each library has kinds of its own
        if type(error).__name__ in NO_LOGIN:
            raise DataError(f"{url}: there is no login for it in this environment ({_told(error)})") from error
        if type(error) in (ValueError, TypeError):  # of a pattern, or an option of its environment
            raise DataError(f"{url}: cannot be read ({_told(error)})") from error
        raise Broken(_told(error)) from error


def _told(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__
