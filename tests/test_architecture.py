"""The house's rules, from the code's own imports: downwards only, no front end in the engine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A room may import from rooms with a smaller number only; models and sets stand side by side.
FLOORS: dict[str, float] = {
    "adapters": 0,
    "errors": 0,
    "exhaustion": 0,
    "formats": 1,
    "limits": 0,
    "methods": 0,
    "progress": 0,
    "refusal": 0,
    "regular": 0,
    "spelling": 0,
    "stored": 0,
    "threads": 0,
    "yamlfile": 0.5,  # a mezzanine: what config reads files with, over errors
    "bundled": 1,
    "csvfile": 0.5,
    "disk": 1,
    "config": 1,
    "trackers": 2,
    "trained": 2,
    "sets": 2,
    "models": 2,
    "routing": 3,
    "calibration": 4,
    "evaluation": 5,
    "unlearning": 6,
    "attacks": 7,
    "demo": 7,
    "runs": 8,
    "audit": 9,
    "causal": 6,
    "export": 9,
    "sweeps": 9,
    "benchmark": 9,
    "health": 9.5,  # over what it counts
    "cli": 10,
}
# `trace_engine/__init__` is the public face: lazy names of every room, so it stands on top.
# `demo/run.py` is `trace-moe demo`: it drives a real run, so it stands with the doors, above runs.
OVERRIDES = {"trace_engine/__init__.py": 10, "trace_engine/demo/run.py": 9}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}: relative import"
            names.add(node.module or "")
    return names


def engine_files() -> list[Path]:
    return sorted((ROOT / "trace_engine").rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    return parts[1].removesuffix(".py")


@pytest.mark.parametrize("path", engine_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_engine_imports_run_downwards(path: Path) -> None:
    relative = path.relative_to(ROOT)
    own = room(relative.parts)
    floor = OVERRIDES.get(str(relative), FLOORS.get(own, -1))
    assert floor >= 0, f"{own} is not a room of architecture.md"
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in {"streamlit", "app", "pages", "bench", "tests"}, f"{relative}: {name}"
        if top != "trace_engine" or name == "trace_engine":
            continue
        other = room(tuple(name.split(".")))
        if other != own:
            assert FLOORS[other] < floor, f"{relative} (floor {floor}) imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=lambda p: p.name)
def test_app_does_not_import_pages(path: Path) -> None:
    assert not {n for n in imports(path) if n.split(".")[0] == "pages"}


@pytest.mark.parametrize(
    "module",
    [
        "trace_engine",
        "trace_engine.config",
        "trace_engine.methods",
        "trace_engine.routing",
        "trace_engine.calibration",
        "trace_engine.causal.rerouted_results",
        "trace_engine.causal.agreement",
        "trace_engine.causal.results",
        "trace_engine.evaluation",
        "trace_engine.runs",
        "trace_engine.sets",
        "trace_engine.audit",
        "trace_engine.audit.background",
        "trace_engine.audit.page",
        "trace_engine.audit.report_file",
        "trace_engine.audit.settings",
        "trace_engine.attacks.settings",
        "trace_engine.export",
        "trace_engine.health",
        "trace_engine.sweeps",
    ],
)
def test_light_rooms_do_not_load_torch(module: str) -> None:
    """The app's process previews maps and weights; it must not pay for torch, nor hold a model."""
    heavy = "{'torch', 'transformers', 'streamlit'}"
    code = f"import {module}, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_command_says_that_bars_stay_off_before_the_library_asks() -> None:
    """huggingface_hub reads HF_HUB_DISABLE_PROGRESS_BARS when it is imported; `main` sets it."""
    code = "import trace_engine.cli.main, sys; print('huggingface_hub' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


DRAWING_TABLES = {"dataframe", "data_editor", "st.table"}


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "pages").glob("*.py")]),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_tables_are_drawn_in_one_place(path: Path) -> None:
    """Whose downloads are safe to open, and where Streamlit's own is off."""
    named = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    ]
    found = DRAWING_TABLES & {name for node in named for name in (node.attr, ast.unparse(node))}
    assert found == ({"dataframe"} if path == ROOT / "app" / "tables.py" else set())
