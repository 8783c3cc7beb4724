"""Where the files that ship with evsim lie: beside the package in a clone, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_ROOTS = (_PACKAGE / "_share", _PACKAGE.parent)


def bundled(kind: str) -> list[Path]:
    """What ships under `traces` or `scenarios`, sorted by path."""
    for root in _ROOTS:
        folder = root / kind
        if folder.is_dir():
            pattern = "*/manifest.json" if kind == "traces" else "**/*.toml"
            found = sorted(folder.glob(pattern))
            return [path.parent for path in found] if kind == "traces" else found
    return []


def bundled_trace(name: str) -> Path | None:
    """The folder of a bundled trace, or None."""
    return next((folder for folder in bundled("traces") if folder.name == name), None)


def bundled_data(name: str) -> Path | None:
    """The folder of a bundled data set, or None."""
    folders = (root / "datasets" / name for root in _ROOTS)
    return next((folder for folder in folders if (folder / "manifest.json").is_file()), None)


def bundled_scenario(name: str) -> Path | None:
    """The file of a bundled scenario, by its path below `scenarios` with or without the suffix, or None."""
    wanted = name.removesuffix(".toml").removeprefix("scenarios/")
    for path in bundled("scenarios"):
        parts = path.with_suffix("").parts
        if "/".join(parts[len(parts) - len(wanted.split("/")) :]) == wanted:
            return path
    return None
