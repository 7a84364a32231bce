"""What a page carries inside: style, script, the library that draws curves with its licence; and what it forbids.

The library is uPlot 1.6.32 (MIT) as npm has it, unchanged: dist/uPlot.iife.min.js and dist/uPlot.min.css of the package
with the SHA-256 below. It uses neither eval nor the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

FOLDER = Path(__file__).parent / "assets"
UPLOT = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


@dataclass(frozen=True)
class Assets:
    """As they stand in the page, each within an element of its own."""

    style: Markup
    library: Markup
    script: Markup
    licence: str

    def policy(self, live: Any) -> str:
        """The content security policy: these scripts and this style run, and nothing is loaded or sent.

        A `live` page may ask the server that it came from.
        """
        scripts = f"{_hash(self.library)} {_hash(self.script)}"
        asks = "; connect-src 'self'" if live else ""
        return (
            f"default-src 'none'; script-src {scripts}; style-src {_hash(self.style)}; img-src data:; base-uri 'none'; "
            f"form-action 'none'{asks}"
        )


def read_assets() -> Assets:
    text = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.is_file()}
    return Assets(
        style=Markup(text["uPlot.min.css"] + text["report.css"]),
        library=Markup(text["uPlot.iife.min.js"]),
        script=Markup(text["report.js"]),
        licence=text["uPlot.LICENSE.txt"],
    )


def page_json(data: Mapping[str, Any]) -> Markup:
    """As the content of a script element of JSON: no sign in it can end the element or begin another."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _hash(text: str) -> str:
    """As a content security policy names the content of an element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
