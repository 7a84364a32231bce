"""What is known of a file far away, and what can go wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from est_cli.common.errors import DataError
from est_cli.common.urls import WEB, scheme_of
from est_cli.storage.digest import fingerprint


class Broken(Exception):
    """What may go better the next time: no answer, a connection that was cut, an error of the server.

    `wait_s`: how long the server asks to be left alone.
    """

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


@dataclass(frozen=True)
class FarFile:
    """A file as its server described it. `tag` says which content it is: an ETag, a checksum, a generation, a time.

    `ranges`: whether the server gives a part of it alone.
    """

    url: str
    size: int
    tag: str
    ranges: bool = True

    def __str__(self) -> str:
        return self.url

    @property
    def suffixes(self) -> list[str]:
        """As Path.suffixes."""
        path = self.url.partition("://")[2]
        return PurePosixPath(unquote(urlsplit(self.url).path) if scheme_of(self.url) in WEB else path).suffixes

    @property
    def state(self) -> str:
        """Which file it is and whether it has changed, as `stat_of` says it of a file here."""
        return f"{self.url} {self.size} {self.tag}"

    @property
    def digest(self) -> str:
        """What stands for the digest of its bytes, which nobody has read yet."""
        return fingerprint("far", self.url, self.size, self.tag)


def changed(file: FarFile) -> DataError:
    return DataError(f"{file}: has changed while it was read; start again")
