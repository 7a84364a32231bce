from __future__ import annotations

from tests.lab.fixtures import golden, lab, server, shared

__all__ = ["golden", "lab", "server", "shared"]
