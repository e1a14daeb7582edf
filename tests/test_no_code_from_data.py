"""Nothing that comes from outside becomes code: what could do so is listed here, with its reason."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for top in ("splitfire_batch", "cluster", "flows") for path in (ROOT / top).rglob("*.py"))
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
"""Whoever imports one of these can make code of data; `from x import` counts."""
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load"}
CALLS |= {"numpy.load", "np.load", "pd.read_pickle", "importlib.import_module", "runpy.run_path"}
ALLOWED = {
    ("cluster/actors.py", "pickle"): "an actor opens what its own driver sent it, over a Ray that asks for "
    "its token; whoever can send that can run code there anyway",
    ("cluster/actors.py", "ray.cloudpickle"): "the other end of it: the driver makes what its actors open",
    (
        "splitfire_batch/storage/faults.py",
        "importlib.import_module",
    ): "names of exceptions from our own table",
    (
        "splitfire_batch/models/roformer_config.py",
        "yaml",
    ): "its SafeLoader, to which only tuples are added: texts make plain data",
    ("splitfire_batch/models/__init__.py", "importlib.import_module"): "modules from our own table",
    (
        "splitfire_batch/models/checkpoints.py",
        "torch.load",
    ): "with weights_only, and inert stand-ins for classes",
    (
        "splitfire_batch/models/htdemucs_network.py",
        "importlib.import_module",
    ): "modules of demucs from our own table",
    ("splitfire_batch/models/checkpoints.py", "pickle"): "for the name of an exception",
    ("splitfire_batch/children/zygote.py", "importlib.import_module"): "names from our own list",
}


def found_in(source: str) -> set[str]:
    """What in a module could make code of data."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if MODULES & set(alias.name.split("."))}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if MODULES & set(name.split("."))}
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in CALLS:
                found.add(name)
            if named.get("shell") == "True" or named.get("allow_pickle") == "True":
                found.add(f"{name} with shell or allow_pickle")
            if named.get("weights_only") == "False":
                found.add(f"{name} with weights_only=False")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_makes_code_of_data_but_for_a_reason(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert found_in(path.read_text()) == {what for file, what in ALLOWED if file == name}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from ray import cloudpickle",
        "import yaml as y",
        "from marshal import loads",
        "torch.load(path)",
        "eval(text)",
        "exec(text)",
        "np.load(path)",
        "open_it(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "f(x, weights_only=False)",
        "importlib.import_module(name)",
    ],
)
def test_the_search_finds(line: str) -> None:
    assert found_in(line)


def test_prefect_keeps_no_result_of_ours() -> None:
    from prefect import Flow, Task

    from flows import separate_catalogue as module

    ours = [value for _, value in inspect.getmembers(module) if isinstance(value, Flow | Task)]
    assert {each.name for each in ours} >= {"separate-catalogue", "list", "plan", "separate", "finalise"}
    assert [each.name for each in ours if each.persist_result is not False] == []
