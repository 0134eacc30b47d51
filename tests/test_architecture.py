"""The folder tree tells the truth: who may import whom, what is public, what is optional."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import data_agent

PACKAGE = Path(data_agent.__file__).parent
LAYERS = [
    {"_errors", "_version", "_random", "_clock"},
    {"_messages"},
    {"_schedule", "_distributed", "_state", "_nonfinite", "_topk", "_taps"},
    {"_staging", "_epoch", "_method", "_composition"},
    {"_readings"},
    {"_selector"},
    {"_batch_selector"},
    {"_indexed"},
    {"_sampler"},
    {"_files"},
    {"agent", "baselines", "testing", "_checkpoint"},
    {"integrations"},
    {"lab"},
    {"cli"},
]
OPTIONAL = {
    *("accelerate", "lightning", "peft", "pytorch_lightning", "transformers", "trl"),
    *("datasets", "matplotlib", "PIL", "pyarrow", "rich"),
    *("lm_eval", "safetensors", "sklearn", "scipy", "tyro"),
}


def layer_of(module):
    part = module.removeprefix("data_agent.").split(".")[0]
    return next(i for i, names in enumerate(LAYERS) if part in names)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "data_agent" else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def all_modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name != "__init__":
            yield pytest.param(path, name.removesuffix(".__init__"), id=name)


each_module = pytest.mark.parametrize(("path", "name"), list(all_modules()))


@each_module
def test_imports_point_downward(path, name):
    own = layer_of(f"data_agent.{name}")
    for imported in imports_of(path):
        if imported.startswith("data_agent."):
            part = imported.removeprefix("data_agent.").split(".")[0]
            if part[0].isupper() or part in ("make_selector", "selection_loader", "__version__"):
                assert own >= layer_of("data_agent.integrations"), f"{name} imports the front"
            else:
                assert layer_of(imported) <= own, f"{name} imports {imported}"


@each_module
def test_the_core_imports_torch_and_numpy_only(path, name):
    if layer_of(f"data_agent.{name}") >= layer_of("data_agent.integrations"):
        return
    if name == "_checkpoint":  # what writes state to disk is loaded by those who write it only
        assert "data_agent._checkpoint" not in loaded_by("import data_agent", whole=True)
        return
    allowed = {"data_agent", "torch", "numpy", *sys.stdlib_module_names}
    outside = {module.split(".")[0] for module in imports_of(path)} - allowed
    assert not outside, f"{name} imports {outside}"


@each_module
def test_only_one_file_talks_to_other_ranks(path, name):
    imported = set(imports_of(path))
    assert name == "_distributed" or not any("torch.distributed" in i for i in imported)


def loaded_by(statement, *, whole=False):
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = result.stdout.split()
    return set(modules if whole else [module.split(".")[0] for module in modules])


def test_importing_the_core_loads_no_optional_package():
    assert not loaded_by("import data_agent") & OPTIONAL


def test_the_test_above_can_fail():
    assert "rich" in loaded_by("import data_agent, rich")


def test_public_names_are_few_sorted_and_exist():
    names = data_agent.__all__
    assert names == sorted(names, key=lambda n: (n[0].islower(), n))
    assert len(names) <= 12
    namespace = {}
    exec("from data_agent import *", namespace)
    assert set(names) <= set(namespace)


def test_public_names_and_their_methods_have_docstrings_and_return_types():
    for name in data_agent.__all__:
        thing = getattr(data_agent, name)
        assert inspect.getdoc(thing), name
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            if method.startswith("_") or not function.__module__.startswith("data_agent"):
                continue
            assert function.__doc__, f"{name}.{method}"
            assert "return" in function.__annotations__, f"{name}.{method}"


def test_files_can_be_read_in_one_sitting():
    long = {
        p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long
