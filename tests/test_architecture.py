"""The house rules of the design that a tool can check: budgets, floors, names, and a README that tells the truth."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "edge" / "src").rglob("*.py")])
MODULES = [path for path in SOURCE if path.name != "__init__.py"]
BANNED = {"utils", "common", "helpers", "base", "core", "manager"}


def lines(path: Path) -> int:
    return path.read_text().count("\n")


def functions(path: Path) -> list[tuple[str, int]]:
    """Name and number of body lines of each function, its docstring left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            size = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            found.append((f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", size))
    return found


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * (len(values) - 1))]


def test_modules_are_short() -> None:
    sizes = {str(path.relative_to(ROOT)): lines(path) for path in MODULES}
    assert not {name: n for name, n in sizes.items() if n > 400}
    assert statistics.median(sizes.values()) <= 120
    assert percentile(list(sizes.values()), 0.9) <= 250


def test_functions_are_short() -> None:
    sizes = dict(pair for path in MODULES for pair in functions(path))
    assert not {name: n for name, n in sizes.items() if n > 60}
    assert statistics.median(sizes.values()) <= 8
    assert percentile(list(sizes.values()), 0.9) <= 30


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.name)
def test_a_job_is_one_call_and_says_how_it_is_submitted(path: Path) -> None:
    text = path.read_text()
    assert lines(path) <= 25
    assert f"ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/{path.name} " in text
    assert text.count("entry.job(") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda p: p.stem)
def test_configuration_files_are_short(path: Path) -> None:
    assert lines(path) <= 40


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [path for path in SOURCE if path.stem in BANNED or path.parent.name in BANNED]


def test_packages_are_one_level_deep() -> None:
    root = ROOT / "src" / "raysaas"
    assert not [path for path in root.rglob("*.py") if len(path.relative_to(root).parts) > 2]


def test_public_things_have_docstrings() -> None:
    missing = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        missing += [str(path)] if ast.get_docstring(tree) is None else []
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                missing += [f"{path.name}:{node.name}"] if ast.get_docstring(node) is None else []
    assert not missing


def tree_in_readme() -> set[str]:
    """Paths that README's tree names: lines such as ``src/raysaas/records.py   the nouns``."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no tree between <!-- tree --> and the end of its code block"
    return {line.split()[0] for line in block.group(1).splitlines() if line.strip()}


def test_readme_tree_matches_the_disk() -> None:
    on_disk = {str(path.relative_to(ROOT)) for path in MODULES}
    on_disk |= {str(p.relative_to(ROOT)) for f in ("jobs", "benchmarks") for p in (ROOT / f).glob("*.py")}
    listed = {name for name in tree_in_readme() if name.endswith(".py")}
    assert on_disk - listed == set()
    assert listed - on_disk == set()


def test_every_command_is_in_the_readme() -> None:
    from raysaas.cli import JOBS, main

    text = (ROOT / "README.md").read_text()
    assert not [name for name in main.commands if f"raysaas {name}" not in text]
    assert not [name for name in JOBS if name not in text]
