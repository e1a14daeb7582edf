"""The architecture, read from import lines: who may import whom, and which heavy library lives where."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports only from rows below its own; a package is one entry, and free inside itself.
ROWS = [
    {
        "splitfire_batch.forecast",
        "splitfire_batch.machine",
        "splitfire_batch.masking",
        "splitfire_batch.observations",
        "splitfire_batch.staff",
    },
    {
        "splitfire_batch.errors",
        "splitfire_batch.escapes",
        "splitfire_batch.importing",
        "splitfire_batch.heap",
        "splitfire_batch.records",
        "splitfire_batch.spelling",
    },
    {
        "splitfire_batch",
        "splitfire_batch.admission",
        "splitfire_batch.bottleneck",
        "splitfire_batch.config",
        "splitfire_batch.findings",
        "splitfire_batch.globs",
        "splitfire_batch.headway",
        "splitfire_batch.naming",
        "splitfire_batch.report",
        "splitfire_batch.rows",
        "splitfire_batch.segments",
        "splitfire_batch.stopwatch",
    },
    {
        "splitfire_batch.audio",
        "splitfire_batch.blending",
        "splitfire_batch.budget",
        "splitfire_batch.failure_limit",
        "splitfire_batch.figures",
        "splitfire_batch.identity",
        "splitfire_batch.packing",
        "splitfire_batch.pulse",
        "splitfire_batch.requests",
        "splitfire_batch.scratch",
        "splitfire_batch.selection",
        "splitfire_batch.shards",
        "splitfire_batch.stems",
        "splitfire_batch.storage",
        "splitfire_batch.table_pages",
        "splitfire_batch.targets",
        "splitfire_batch.transfer",
    },
    {
        "splitfire_batch.batching",
        "splitfire_batch.clashes",
        "splitfire_batch.codes",
        "splitfire_batch.headers",
        "splitfire_batch.lease",
        "splitfire_batch.lengths",
        "splitfire_batch.metadata",
        "splitfire_batch.models",
        "splitfire_batch.page",
        "splitfire_batch.quality",
        "splitfire_batch.stored",
        "splitfire_batch.tables",
    },
    {"splitfire_batch.contents", "splitfire_batch.plan_rows", "splitfire_batch.sources"},
    {"splitfire_batch.plan"},
    {
        "splitfire_batch.inventory",
        "splitfire_batch.children",
        "splitfire_batch.engine",
        "splitfire_batch.manifest",
        "splitfire_batch.telling",
        "splitfire_batch.tuning",
        "splitfire_batch.turns",
    },
    {"splitfire_batch.ensembles"},
    {
        "splitfire_batch.calibration",
        "splitfire_batch.catalogue",
        "splitfire_batch.separation",
        "splitfire_batch.settled",
        "splitfire_batch.throughput",
    },
    {
        "splitfire_batch.duplicates",
        "splitfire_batch.failures",
        "splitfire_batch.findings",
        "splitfire_batch.forecasting",
        "splitfire_batch.measuring",
        "splitfire_batch.mishaps",
        "splitfire_batch.null_test",
        "splitfire_batch.stem_blocks",
        "splitfire_batch.unchanged",
        "splitfire_batch.workbench",
    },
    {
        "splitfire_batch.duplicate_rows",
        "splitfire_batch.increment",
        "splitfire_batch.rendering",
        "splitfire_batch.retries",
    },
    {"splitfire_batch.audit", "splitfire_batch.quarantine", "splitfire_batch.settling"},
    {
        "splitfire_batch.account",
        "splitfire_batch.here",
        "splitfire_batch.onlooker",
        "splitfire_batch.spec",
        "splitfire_batch.verify",
        "splitfire_batch.worker",
    },
    {"splitfire_batch.runs", "splitfire_batch.vacuum"},
    {"splitfire_batch.closing", "splitfire_batch.equipment", "splitfire_batch.saved_plan"},
    {"splitfire_batch.job", "splitfire_batch.separator"},
    {"cluster"},
    {"flows"},
]
LAZY = {  # imported inside functions, when what they make is really wanted
    ("splitfire_batch", "splitfire_batch.separator"),
    ("splitfire_batch.spec", "splitfire_batch.worker"),
    ("splitfire_batch.worker", "splitfire_batch.spec"),
}

HOMES = {
    "prefect": {"flows"},
    "typer": {"flows"},
    "click": {"flows"},
    "rich": {"flows"},
    "pydantic_settings": {"flows"},
    "ray": {"cluster"},
    "fsspec": {"splitfire_batch.storage"},
    "s3fs": {"splitfire_batch.storage"},
    "aiobotocore": {"splitfire_batch.storage"},
    "botocore": {"splitfire_batch.storage"},
    "soundfile": {"splitfire_batch.audio"},
    "soxr": {"splitfire_batch.audio"},
    "tinytag": {"splitfire_batch.metadata"},
    "safetensors": {"splitfire_batch.models"},
    "pydantic": {"splitfire_batch.config", "splitfire_batch.models", "flows"},
    "torch": {
        "flows",  # the doctor asks it for devices
        "splitfire_batch.batching",
        "splitfire_batch.blending",
        "splitfire_batch.calibration",
        "splitfire_batch.engine",
        "splitfire_batch.ensembles",
        "splitfire_batch.here",
        "splitfire_batch.onlooker",
        "splitfire_batch.models",
        "splitfire_batch.requests",
        "splitfire_batch.segments",
        "splitfire_batch.separation",
        "splitfire_batch.transfer",
        "splitfire_batch.tuning",
        "splitfire_batch.worker",
    },
    "pyarrow": {
        "splitfire_batch.forecasting",
        "splitfire_batch.unchanged",
        "splitfire_batch.settled",
        "splitfire_batch.plan_rows",
        "splitfire_batch.increment",
        "splitfire_batch.duplicates",
        "splitfire_batch.duplicate_rows",
        "splitfire_batch.contents",
        "flows",
        "splitfire_batch.catalogue",
        "splitfire_batch.clashes",
        "splitfire_batch.codes",
        "splitfire_batch.failures",
        "splitfire_batch.closing",
        "splitfire_batch.inventory",
        "splitfire_batch.lengths",
        "splitfire_batch.manifest",
        "splitfire_batch.onlooker",
        "splitfire_batch.packing",
        "splitfire_batch.plan",
        "splitfire_batch.retries",
        "splitfire_batch.rows",
        "splitfire_batch.saved_plan",
        "splitfire_batch.selection",
        "splitfire_batch.shards",
        "splitfire_batch.sources",
        "splitfire_batch.stored",
        "splitfire_batch.table_pages",
        "splitfire_batch.tables",
        "splitfire_batch.targets",
        "splitfire_batch.vacuum",
        "splitfire_batch.verify",
    },
}
ONLY = {
    "av": "splitfire_batch.audio.ffmpeg",
    "bs_roformer": "splitfire_batch.models.roformer_package",
    "demucs": "splitfire_batch.models.htdemucs_network",
    "yaml": "splitfire_batch.models.roformer_config",
}
"""Libraries that a single module may import."""
FILES = sorted(path for top in ("splitfire_batch", "cluster", "flows") for path in (ROOT / top).rglob("*.py"))


@cache
def _imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions; `from a import b` counts as a."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module in ("splitfire_batch", "cluster", "flows"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def _entry(module: str) -> str | None:
    """The entry of ROWS that a module belongs to."""
    parts = module.split(".")
    known = {name for row in ROWS for name in row}
    for n in range(len(parts), 0, -1):
        name = ".".join(parts[:n])
        if name in known:
            return name
    return None


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _row(entry: str) -> int:
    return next(number for number, row in enumerate(ROWS) if entry in row)


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_imports_go_down_only(path: Path) -> None:
    own = _entry(_module(path))
    assert own is not None
    if own == "splitfire_batch":
        assert _module(path) == "splitfire_batch", f"{_module(path)} stands in no row of this table"
    above = {
        imported
        for imported in _imports(path)
        if (entry := _entry(imported))
        and entry not in (own, "splitfire_batch")
        and (own, entry) not in LAZY
        and _row(entry) >= _row(own)
    }
    assert not above


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_heavy_libraries_stay_in_their_places(path: Path) -> None:
    own = _entry(_module(path))
    strays = {
        imported
        for imported in _imports(path)
        if (homes := HOMES.get(imported.partition(".")[0])) is not None and own not in homes
    }
    assert not strays


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_optional_libraries_have_one_module_each(path: Path) -> None:
    allowed = {library for library, module in ONLY.items() if module == _module(path)}
    assert not {name.partition(".")[0] for name in _imports(path)} & (set(ONLY) - allowed)


def test_infra_holds_no_python() -> None:
    assert not list((ROOT / "infra").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_no_module_passes_250_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_arrow_reads_nothing_that_python_has_opened(path: Path) -> None:
    """Its own threads read ahead; one that lets go of Python's bytes while Python ends aborts the process."""
    readers = {"open_file", "open_stream", "ParquetFile", "read_table", "open_csv", "read_csv", "read_json"}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    read = [ast.unparse(call) for call in calls if ast.unparse(call.func).rpartition(".")[2] in readers]
    assert not [call for call in read if re.search("PythonFile|BytesIO|BufferReader|py_buffer", call)]
