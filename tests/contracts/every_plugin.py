"""What holds of every plugin."""

import pytest

from deploy import plugins
from deploy.runtimes import NOT_OPTIONS

PACKAGES = {"stages.detectors": "build", "stages.losses": "build", "stages.datasets": "build", "deploy.runtimes": "compile"}
EVERY = [(package, name) for package in PACKAGES for name in plugins.names(package)]


@pytest.mark.parametrize(("package", "name"), EVERY, ids=lambda value: value)
class TestEveryPlugin:
    def test_its_options_can_be_read_without_importing_it(self, package: str, name: str) -> None:
        model = plugins.schema(package, name, PACKAGES[package], NOT_OPTIONS)
        assert all(field.annotation is not None for field in model.model_fields.values())

    def test_its_file_says_what_it_is(self, package: str, name: str) -> None:
        assert plugins.source(package, name).read_text(encoding="utf-8").startswith('"""')
