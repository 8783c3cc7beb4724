"""Makes the bundled trace `phones`: python traces/phones/recipe.py."""

from __future__ import annotations

from pathlib import Path

from evsim.traces.formats import columnar
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed

DEVICES = 2_000
SEED = 2020
ABOUT = {
    "name": "phones",
    "description": "2,000 synthetic phones for 7 days: online when locked, charging and on WiFi",
    "source": "evsim's own generator with default parameters, seed 2020; contains no third-party record",
    "license": "Apache-2.0",
    "recipe": "recipe.py",
}

if __name__ == "__main__":
    columnar.write(
        Path(__file__).parent,
        availability=SyntheticAvailability().generate(DEVICES, SEED),
        speed=SyntheticSpeed().generate(DEVICES, SEED),
        about=ABOUT,
        replace=True,
    )
