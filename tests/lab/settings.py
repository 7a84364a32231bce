"""Values for every setting, from what its field says: one out of its range, and another one that it may have."""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Any

from est_cli.config.setting import Setting, settings_of


def parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def out_of_range(schema: type) -> dict[str, str]:
    """For each setting with a range, a value of its type just outside of it, as YAML has it."""
    found = {}
    for key, known in settings_of(schema).items():
        if known.within is not None:
            low, kinds = known.within.low, parts(known.hint)
            assert low is not None
            outside = low if known.within.low_open else low - 1
            found[key] = str(int(outside) if int in kinds else float(outside))
    return found


def another_value(known: Setting) -> str:
    """A value that the setting may have and does not have by default, as it is typed."""
    kinds = [kind for part in parts(known.hint) for kind in (typing.get_args(part) or (part,))]
    enum = next((kind for kind in kinds if is_enum(kind)), None)
    if enum is not None:
        return next(member.value for member in enum if member != known.default)
    if bool in kinds:
        return "false" if known.default is True else "true"
    if int in kinds or float in kinds:
        low = (known.within.low if known.within is not None else 0) or 0
        number = (known.default if isinstance(known.default, int | float) else low) + 1
        return str(number if int in kinds else float(number))
    return "[a,b]" if typing.get_origin(known.hint) is list else "other"
