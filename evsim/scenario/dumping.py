"""A scenario back to TOML, fully explicit: loading the text gives an equal scenario."""

from __future__ import annotations

import inspect
from typing import Any

from evsim.base import registry
from evsim.scenario.hints import (
    fields_of,
    hints_of,
    is_policy,
    is_table,
    item_of,
    members,
    plain_class,
    says_none,
    slot_of,
    unparse,
)


def to_tables(value: object) -> dict[str, Any]:
    """A scenario, a table of it or the fields of a policy, as TOML: defaults included, None left out."""
    hints = hints_of(type(value))
    found = {}
    for key, field in fields_of(type(value)).items():
        held = getattr(value, field.name)
        if held is not None:
            found[key] = write_value(hints[field.name], held, key)
        elif says_none(field, hints[field.name]):
            found[key] = "none"
    return found


def write_value(hint: Any, value: Any, key: str) -> object:
    """A field's value as a scenario file writes it."""
    for member in members(hint):
        item = item_of(member)
        if item is not None and isinstance(value, tuple):
            return [write_value(item, each, key) for each in value]
        if is_policy(member) and isinstance(value, plain_class(member) or object):
            return policy_table(slot_of(key, member), value)
        if is_table(member) and isinstance(value, plain_class(member) or object):
            return to_tables(value)
    return unparse(hint, value)


def policy_table(slot: str, policy: object) -> dict[str, Any]:
    """A policy as the table a scenario file writes."""
    fields = to_tables(policy)
    if slot in registry.MADE and {"target", "options"} <= set(fields):  # a class or factory of the user's
        target, options = fields.pop("target"), fields.pop("options")
        return {"kind": target, **options, **fields}
    return {"kind": kind_of(slot, type(policy)), **fields}


def kind_of(slot: str, cls: type) -> str:
    """The kind under which a class is known in a slot, or where it is imported from."""
    target = f"{cls.__module__}:{cls.__qualname__}"
    for kind, entry in registry.entries(slot).items():
        if entry.target == target:
            return kind
    if cls.__module__.startswith(registry.FILE_MODULE):
        return f"{inspect.getfile(cls)}:{cls.__qualname__}"  # absolute: the text may be loaded from anywhere
    return target
