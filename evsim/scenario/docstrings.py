"""What docstrings say of a class and of its fields: for the reference page and the schema."""

from __future__ import annotations

import inspect
import re

_WHOLE = re.MULTILINE | re.DOTALL


def summary(cls: type) -> str:
    """The docstring up to its first section."""
    text = inspect.getdoc(cls) or ""
    return re.split(r"\n\n(?:Attributes|Args|Example|>>>)", text, maxsplit=1)[0].strip()


def meanings(cls: type) -> dict[str, str]:
    """The meaning of each attribute, from the section "Attributes" or "Args" of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(r"^(?:Attributes|Args):\n(.*?)(?=\n\S|\Z)", inspect.cleandoc(base.__doc__ or ""), _WHOLE)
        if section is not None:
            found |= dict(re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section[1], re.MULTILINE))
    return {name: " ".join(meaning.split()) for name, meaning in found.items()}
