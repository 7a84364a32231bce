"""Names of other packages: found only when asked for, loaded one by one, never in the place of est's own."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from est_cli.common import plugins
from est_cli.common.plugins import Origin, Registry, package_problem, packages_in_use
from tests.lab.packages import install

GROUP = "est_cli.things"
MODULE = "MADE = 'made'\nOTHER = 7\n"


def registry() -> Registry[str]:
    return Registry("thing", GROUP, str, ("ours",))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "thing_module", raising=False)
    monkeypatch.setattr(plugins, "_in_use", {})  # the estimates that est-plan keeps depend on it
    return tmp_path


def test_an_entry_is_loaded_only_when_it_is_asked_for(site: Path) -> None:
    install(site, "est-thing", {f"{GROUP}:theirs": "thing_module:MADE"}, {"thing_module": MODULE}, version="2.5")
    things = registry()
    assert things.knows("theirs") and things.names() == ["theirs"]
    assert things.origin("theirs") == Origin("est-thing", "2.5")
    assert "thing_module" not in sys.modules and "est-thing" not in packages_in_use()
    assert things.get("theirs") == "made"
    assert packages_in_use()["est-thing"] == "2.5"


@pytest.mark.parametrize("name", ["ours", "unknown", "thing_module:MADE", "os", "../theirs", "", None, ["theirs"]])
def test_nothing_else_is_found(site: Path, name: object) -> None:
    install(site, "est-thing", {f"{GROUP}:theirs": "thing_module:MADE"}, {"thing_module": MODULE})
    things = registry()
    assert not things.knows(name) and things.origin(name) is None
    assert "thing_module" not in sys.modules


def test_a_name_of_ours_is_passed_over_and_said_once(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "est-bold", {f"{GROUP}:ours": "thing_module:MADE"}, {"thing_module": MODULE})
    things = registry()
    with caplog.at_level(logging.WARNING):
        assert not things.knows("ours") and not caplog.records  # nobody looks
        assert not things.knows("theirs") and not things.knows("theirs") and things.names() == []
    assert [record.getMessage() for record in caplog.records] == [
        "thing: est-bold==1 brings one named 'ours', as est has itself; it is passed over"
    ]
    assert "thing_module" not in sys.modules


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("thing_module:OTHER", "'theirs' of the package est-thing==1 is of type int; it must be a str"),
        ("thing_module:NONE", "'theirs' of the package est-thing==1 cannot be loaded: AttributeError: "),
        ("thing_exits:X", "'theirs' of the package est-thing==1 cannot be loaded: SystemExit: 0"),
        ("no_such_module:X", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_package(site: Path, target: str, told: str) -> None:
    modules = {"thing_module": MODULE, "thing_exits": "import sys; sys.exit(0)"}
    install(site, "est-thing", {f"{GROUP}:theirs": target}, modules)
    with pytest.raises(ValueError, match=told):
        registry().get("theirs")


def test_a_package_without_metadata_is_unnamed(site: Path) -> None:
    install(site, "est-thing", {f"{GROUP}:theirs": "thing_module:MADE"}, {"thing_module": MODULE})
    (site / "est_thing-1.dist-info" / "METADATA").write_text("junk")
    things = registry()
    assert things.origin("theirs") == Origin("unnamed", "unknown") and things.get("theirs") == "made"


def test_a_damaged_package_is_told_and_stops_nobody(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "est-thing", {f"{GROUP}:theirs": "thing_module:MADE"}, {"thing_module": MODULE})
    install(site, "damaged", {})
    (site / "damaged-1.dist-info" / "entry_points.txt").write_text("[console_scripts]\ngarbage\n")
    plugins._warn_of_damage.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not registry().knows("theirs") and registry().names() == []
    (record,) = caplog.records
    assert record.getMessage().startswith("the entry points of an installed package cannot be read (")


def test_of_two_packages_with_one_name_none_is_taken(site: Path) -> None:
    for name in ("est-one", "est-two"):
        install(site, name, {f"{GROUP}:theirs": "thing_module:MADE"}, {"thing_module": MODULE})
    with pytest.raises(ValueError, match=r"'theirs' is brought by est-(one|two)==1 and est-(one|two)==1; uninstall"):
        registry().get("theirs")


def test_a_program_registers_its_own() -> None:
    things = registry()
    things.register("theirs", "a cell of a notebook")
    things.register("theirs", "made")
    assert things.knows("theirs") and things.get("theirs") == "made" and things.origin("theirs") is None
    for name, entry, told in (
        ("ours", "x", "is one of est's own"),
        ("Not A Name", "x", "is no name"),
        ("number", 7, "is of type int; it must be a str"),
    ):
        with pytest.raises(ValueError, match=told):
            things.register(name, entry)  # type: ignore[arg-type]


def test_another_package_of_the_same_name_is_no_replacement() -> None:
    ours = Origin("est-thing", "2")
    assert package_problem("k", None, None) is None and package_problem("k", None, ours) is None
    assert package_problem("k", "est-thing==1", ours) is None  # another version: the checkpoint's versions tell it
    assert "k: the run began with est-other==1, here it is of est-thing==2" in str(
        package_problem("k", "est-other==1", ours)
    )
    assert "here it is of no package" in str(package_problem("k", "est-other==1", None))
