"""No file of the product can run what stands in data: read off the syntax trees, imports under other names included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Tally

pytestmark = pytest.mark.row("S")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("est_cli", "benchmarks", "studies") for path in sorted((ROOT / folder).rglob("*.py"))]

MODULES = (
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "imp",
    "tarfile",
)
"""Modules that read code, or objects that run code when they are read, or that unpack names they are told."""
CALLS = (
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.export.load", "torch.package"),
    *("numpy.load", "numpy.lib.format", "pandas.read_pickle", "datasets.load_from_disk"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method"),
    *("hydra.utils.get_object", "omegaconf.OmegaConf.register_new_resolver"),
    *("importlib.import_module", "importlib.metadata.entry_points", "runpy.run_module", "runpy.run_path"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.distributed.all_gather_object", "torch.distributed.broadcast_object_list"),
    *("torch.distributed.gather_object", "torch.distributed.scatter_object_list"),
    *("accelerate.utils.gather_object", "accelerate.utils.broadcast_object_list"),
)
"""Functions of that kind; those of torch.distributed pickle what they send."""
SETTLED = {"trust_remote_code": False, "use_safetensors": True, "allow_pickle": False, "shell": False}
"""Keywords that have one value wherever they are given."""
NPY = "est_cli/data/tokens/token_forms.py"
EXCEPTIONS = {
    ("benchmarks/contenders/nanogpt.py", "pickle"): "nanoGPT, which is measured against, wants its vocabulary so",
    ("benchmarks/contenders/nanogpt.py", "pickle.dumps"): "it writes a number and reads nothing",
    ("est_cli/families/__init__.py", "importlib.import_module"): "names of the files of that folder",
    ("est_cli/common/plugins.py", "importlib.metadata.entry_points"): "what installed packages bring, by name",
    ("est_cli/cli/command.py", "importlib.import_module"): "names of a command's row, and of the commands",
    ("est_cli/config/schedulers/__init__.py", "importlib.import_module"): "names of the files of that folder",
    ("est_cli/data/__init__.py", "importlib.import_module"): "names of a table in that file",
    (NPY, "numpy.lib.format"): "the shape and type in a .npy header, which are literals",
    (NPY, "numpy.lib.format.read_magic"): "six bytes and a version",
    (NPY, "numpy.lib.format.read_array_header_1_0"): "literals, of a limited length",
    (NPY, "numpy.lib.format.read_array_header_2_0"): "literals, of a limited length",
    ("est_cli/est/__init__.py", "importlib.import_module"): "names of a table in that file",
    ("est_cli/distributed/__init__.py", "importlib.import_module"): "names of a table in that file",
    ("est_cli/config/stored.py", "yaml.load"): "with the safe loader, the one in C where it is there",
}


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.load` as `numpy.load`, where np is numpy in this file; empty for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def imported(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(one.asname or one.name.partition(".")[0]): one.name for one in node.names if one.asname}
            names |= {one.name.partition(".")[0]: one.name.partition(".")[0] for one in node.names if not one.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {(one.asname or one.name): f"{node.module}.{one.name}" for one in node.names}
    return names


def matches(name: str, forbidden: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in forbidden)


def findings(source: str) -> Iterator[str]:
    """What of the above a file holds."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if matches(one.name, MODULES))
        elif isinstance(node, ast.ImportFrom):
            found = [str(node.module), *(f"{node.module}.{one.name}" for one in node.names)]
            yield from (
                name for name in found if matches(name, (*MODULES, *CALLS)) and not matches(name, ("importlib",))
            )
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = dotted(node, names)
            if matches(name, (*MODULES, *CALLS)) and name not in MODULES:
                yield name
        elif isinstance(node, ast.keyword) and node.arg in SETTLED and not is_settled(node.arg, node.value):
            yield f"{node.arg}="


def is_settled(keyword: str, value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is SETTLED[keyword]


def test_nothing_runs_what_it_reads() -> None:
    assert len(SOURCES) > 200
    found = {
        (path.relative_to(ROOT).as_posix(), what) for path in SOURCES for what in findings(path.read_text("utf-8"))
    }
    assert found == set(EXCEPTIONS), found ^ set(EXCEPTIONS)


PLANTED = {
    "import pickle": "pickle",
    "import joblib as j": "joblib",
    "from shelve import open": "shelve",
    "from torch import load\nload('x')": "torch.load",
    "import torch as t\nt.load('x', weights_only=True)": "torch.load",
    "import numpy as np\nread = np.load": "numpy.load",
    "eval('1')": "eval",
    "run = exec": "exec",
    "from hydra.utils import instantiate": "hydra.utils.instantiate",
    "import hydra\nhydra.utils.instantiate(config)": "hydra.utils.instantiate",
    "import yaml\nyaml.load(text, yaml.Loader)": "yaml.load",
    "from importlib import import_module as find\nfind(name)": "importlib.import_module",
    "import os\nos.system(name)": "os.system",
    "from torch import distributed as dist\ndist.broadcast_object_list([x])": "torch.distributed.broadcast_object_list",
    "open_model(name, trust_remote_code=True)": "trust_remote_code=",
    "open_model(name, trust_remote_code=trusted)": "trust_remote_code=",
    "open_model(name, use_safetensors=None)": "use_safetensors=",
    "read(name, allow_pickle=True)": "allow_pickle=",
    "import subprocess\nsubprocess.run(line, shell=True)": "shell=",
}


@pytest.mark.parametrize("source", PLANTED)
def test_what_is_forbidden_is_found(tally: Tally, source: str) -> None:
    assert PLANTED[source] in set(findings(source))
    tally(inputs=1)


def test_every_reader_of_transformers_is_told_not_to_trust() -> None:
    """Models, configs and tokenizers are opened by calls that say so themselves, and models from safetensors only."""
    calls = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8"))) if in_est(path, node)]
    named = [(node, str(node.func.attr), dotted(node.func.value, {})) for node in calls]
    assert {name for _, name, _ in named} == {"from_pretrained", "from_config"}
    for node, name, of in named:
        if (
            of == "GenerationConfig"
        ):  # numbers from a JSON file: it opens neither code nor weights, and takes no such word
            continue
        given = {keyword.arg for keyword in node.keywords}
        assert "trust_remote_code" in given, ast.unparse(node)
        if name == "from_pretrained" and of not in ("AutoConfig", "AutoTokenizer"):
            assert "use_safetensors" in given, ast.unparse(node)


def in_est(path: Path, node: ast.AST) -> bool:
    ours = path.is_relative_to(ROOT / "est_cli")
    opens = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return ours and opens and node.func.attr in ("from_pretrained", "from_config")
