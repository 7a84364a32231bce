"""MANIFEST.json: the size and SHA-256 of each file of a folder, and of itself.

safetensors does not notice a flipped bit in tensor data, so every byte is covered here: the files by their digests, the
manifest by being exactly what `render` writes for its content, with a digest of its own.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from est_cli.storage import strict_json

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
CODE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".py", ".so")
"""Files that run code when the usual readers open them; a folder of ours never holds one."""

Manifest = dict[str, Any]
"""What `parse` gives: format_version, files ({name: {"sha256", "bytes"}}), meta and its own digest."""

_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def render(files: dict[str, dict[str, Any]], meta: dict[str, Any]) -> bytes:
    """The manifest of `files` ({name: {"sha256", "bytes"}}) as it stands on disk."""
    body = {"format_version": FORMAT_VERSION, "files": files, "meta": meta}
    digest = hashlib.sha256(strict_json.write_object(body)).hexdigest()
    return strict_json.write_object({**body, "manifest_sha256": digest})


def parse(data: bytes) -> Manifest:
    """The manifest in `data`, its own form checked. ValueError says in one line what is wrong."""
    found = strict_json.read_object(data)
    version = found.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(f"format version {repr(version)[:40]}; this version of the tool reads {FORMAT_VERSION}")
    files, meta = found.get("files"), found.get("meta")
    if not isinstance(files, dict) or not isinstance(meta, dict):
        raise ValueError("needs the objects `files` and `meta`")
    for name, entry in files.items():
        _check_entry(name, entry)
    if render(files, meta) != data:
        raise ValueError("damaged: its own checksum does not match")
    return found


def check_name(name: str) -> None:
    """ValueError unless `name` is a plain file name that may stand in a folder of ours."""
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise ValueError(f"{name!r} is no file name for a checkpoint (letters, digits, `_`, `-`, `.`; no folders)")
    if name.endswith(CODE_SUFFIXES):
        raise ValueError(f"{name!r} could carry code; weights are read from safetensors only: convert it")


def _check_entry(name: str, entry: object) -> None:
    check_name(name)
    if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
        raise ValueError(f"{name}: needs exactly `sha256` and `bytes`")
    digest, size = entry["sha256"], entry["bytes"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{name}: `sha256` is not 64 hexadecimal digits")
    if type(size) is not int or size < 0:
        raise ValueError(f"{name}: `bytes` is not a size")
