from __future__ import annotations

from tests.loop.conftest import golden, lab, server, shared

__all__ = ["golden", "lab", "server", "shared"]
