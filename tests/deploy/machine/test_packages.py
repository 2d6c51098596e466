import importlib.metadata

import numpy as np
import pytest

from deploy.machine import packages


def test_dependencies_are_those_of_the_distribution() -> None:
    found = packages.dependencies()
    assert found["numpy"] == np.__version__
    assert {"pydantic", "torch", "openvino", "tensorrt", "starlette"} <= found.keys()  # base and extras
    assert not {"pytest", "mypy"} & found.keys()


def test_what_is_installed_has_a_version_and_ours_is_among_it() -> None:
    found = packages.installed()
    assert found["edgedistill"] == importlib.metadata.version("edgedistill")
    assert list(found) == sorted(found)
    assert {name: version for name, version in packages.dependencies().items() if version}.items() <= found.items()


def test_one_build_of_a_package_stands_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["alpha>=1", "alpha-gpu>=1; sys_platform == 'linux'", "beta", "gamma ; extra == 'dev'", 'delta>=2; extra == "train"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)
    monkeypatch.setattr(packages, "version", {"alpha-gpu": "1.5", "delta": "2.0"}.get)
    assert packages.dependencies() == {"alpha-gpu": "1.5", "beta": None, "delta": "2.0"}


def test_a_checkout_that_is_not_installed_has_no_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "DISTRIBUTION", "no-such-package")
    assert packages.dependencies() == packages.installed() == {}


def test_the_first_name_that_is_installed_counts() -> None:
    assert packages.first("no-such-package", "numpy", "pydantic") == f"numpy {np.__version__}"
    assert packages.first("no-such-package") == "not installed"
