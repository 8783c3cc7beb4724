"""The documents point at things that exist: links, make targets, commands, modules, public names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import evsim
from evsim import Simulation, load_run
from evsim.base import registry
from evsim.cli import app
from evsim.scenario import Scenario
from evsim.timeline.audience import FACTS
from tests.verify import worlds

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("analysis/**/*.md")),
    *sorted(ROOT.glob("traces/*/README.md")),
]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by, as GitHub names them."""
    headings = re.findall(r"^#+ +(.+?) *$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str]]:
    found = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))]
    return [(page, link) for page, link in found if not link.startswith("https://")]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda value: getattr(value, "name", value))
def test_a_link_leads_to_a_page_and_a_heading(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.is_relative_to(ROOT), "a link out of the repository"
    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        targets = {(origin.parent / link.partition("#")[0]).resolve() for origin, link in links() if origin == page}
        todo += [target for target in targets if target.suffix == ".md" and target.exists() and target not in reached]
    assert set(ROOT.glob("docs/*.md")) <= reached


def test_make_targets_that_are_named_exist_and_explain_themselves() -> None:
    explained = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, flags=re.MULTILINE))
    code = [text for page in PAGES for text in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), flags=re.DOTALL)]
    named = {target for text in code for target in re.findall(r"\bmake ([a-z-]+)", text)}
    assert {"demo", "test"} <= named <= explained
    assert set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[0].split()) == explained


def test_commands_that_are_named_exist() -> None:
    group = typer.main.get_command(app)
    commands = set(getattr(group, "commands", {}))
    code = [text for page in PAGES for text in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), flags=re.DOTALL)]
    named = {name for text in code for name in re.findall(r"(?:^|`)evsim ([a-z]+)\b", text, flags=re.MULTILINE)}
    assert {"run", "check", "list", "describe"} <= named <= commands


def test_the_public_names_are_those_that_are_documented() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    imported = {
        name for names in re.findall(r"from evsim import ([\w, ]+)", README) for name in re.split(r",\s*", names)
    }
    assert imported <= set(evsim.__all__)
    assert sorted(evsim.__all__) == list(evsim.__all__)
    for name in evsim.__all__:
        assert getattr(evsim, name).__doc__
        assert re.search(rf"\b{name}\b", pages), f"{name} is public and on no page"


def test_the_scenario_of_the_readme_is_fine(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "two_days.toml").write_text(text, encoding="utf-8")
    found = Scenario.load(tmp_path / "two_days.toml", ["aggregation.cohort_goal=50"])
    assert found.name == "two days of phones"


EVENTS = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


def blocks_of_events(folder: Path, holding: str) -> Path:
    """Saves the files of the page on events; that of the scenario which holds a word."""
    blocks = re.findall(r"```(python|toml)\n(.*?)```", EVENTS, flags=re.DOTALL)
    code = [text for kind, text in blocks if kind == "python" and ">>>" not in text]
    for name, text in zip(("stop_late.py", "tiers.py"), code, strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    (toml,) = [text for kind, text in blocks if kind == "toml" and holding in text]
    (folder / "mine.toml").write_text(toml, encoding="utf-8")
    return folder / "mine.toml"


def test_the_listeners_of_the_page_on_events_run_and_end_the_run(tmp_path: Path) -> None:
    scenario = Scenario.load(
        blocks_of_events(tmp_path, "stop_late.py"), ["stop.server_steps=6", "executor.kind=serial"]
    )
    run = load_run(Simulation(scenario, device="cpu").run(tmp_path / "run"))
    assert re.fullmatch(r"\d+ of \d+ late in round \d+", run.manifest["end"]["reason"])
    assert (tmp_path / "run" / "events.csv").stat().st_size > 0


def test_the_aggregator_of_the_page_on_events_runs_as_three_processes(tmp_path: Path) -> None:
    scenario = Scenario.load(blocks_of_events(tmp_path, "tiers.py"))
    steps = load_run(Simulation(scenario).run(tmp_path / "run")).server_steps
    assert set(steps["by"]) == {"tier 0", "tier 1", "tier 2"}
    assert len(steps) == 12


def test_the_aggregator_of_the_page_on_events_trains_one_model(tmp_path: Path) -> None:
    blocks_of_events(tmp_path, "tiers.py")
    tiers = {"kind": f"{tmp_path / 'tiers.py'}:Tiers", "n_tiers": 2, "cohort_goal": 3}
    change = {"aggregation": tiers, "population": {"clients": 16, "availability": "always"}}
    table = worlds.merged(worlds.BASE, change | {"stop": {"rounds": 12}, "evaluation": {"every": 12}})
    run = load_run(Simulation(Scenario.from_dict(table), device="cpu").run(tmp_path / "run"))
    steps, used = run.server_steps, run.tasks[run.tasks["outcome"] == "aggregated"]
    by = steps.set_index("version")["by"]
    assert by.index.tolist() == list(range(1, 13))
    assert set(by) == {"tier 0", "tier 1"}
    assert (by.loc[used["server_step"]].to_numpy() == [f"tier {client % 2}" for client in used["client"]]).all()
    assert set(used["staleness"]) >= {0, 1}  # each tier improves what the other one has improved meanwhile
    losses = run.evaluations[run.evaluations["metric"] == "loss"]["value"]
    assert losses.iloc[-1] < 0.95 * losses.iloc[0]


def test_the_page_on_events_names_every_fact_and_kind() -> None:
    table = EVENTS.split("## Listeners")[1].split("### A listener in a scenario")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == sorted(FACTS)
    kinds = EVENTS.split("### A listener in a scenario")[1].split("### One that ends")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", kinds, flags=re.MULTILINE)) == set(registry.entries("listener"))


def test_modules_that_the_design_names_exist() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:\w+/)*\w+\.py)`", design):
        assert (ROOT / "evsim" / path).is_file() or (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:\w+/)+)`", design):
        assert (ROOT / "evsim" / path).is_dir() or (ROOT / path).is_dir(), path


def test_the_layers_of_the_design_are_those_that_are_checked() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^layers = \[\n(.*?)^\]", pyproject, flags=re.DOTALL | re.MULTILINE)
    checked = re.findall(r"evsim\.(\w+)", layers)
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("## Who may import whom")[1]
    said = re.sub(r"\(.*?\)", "", design.split(" The timeline never")[0].split("):", 1)[1], flags=re.DOTALL)
    assert [name for layer in re.findall(r"`([^`]+)`", said) for name in re.findall(r"\w+", layer)] == checked
