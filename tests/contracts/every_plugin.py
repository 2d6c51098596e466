"""What holds of every plugin."""

import pytest

from deploy import plugins
from pipeline.config import PLUGIN_SECTIONS

PLACES = {place.package: place for place in PLUGIN_SECTIONS.values()}
EVERY = [(package, name) for package in PLACES for name in plugins.names(package)]


@pytest.mark.parametrize(("package", "name"), EVERY, ids=lambda value: value)
class TestEveryPlugin:
    def test_its_options_and_their_meanings_can_be_read_without_importing_it(self, package: str, name: str) -> None:
        model = plugins.schema(package, name, PLACES[package].function)
        assert all(field.annotation is not None for field in model.model_fields.values())
        assert not [option for option, field in model.model_fields.items() if not field.description], "say what they mean under Args"

    def test_its_file_says_what_it_is(self, package: str, name: str) -> None:
        assert plugins.source(package, name).read_text(encoding="utf-8").startswith('"""')
