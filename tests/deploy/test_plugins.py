from pathlib import Path

import pytest
from every_plugin import TestEveryPlugin

from deploy import plugins

__all__ = ["TestEveryPlugin"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of plugins: soft has options, hard breaks the rules."""
    folder = tmp_path / "toys"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "_shared.py").touch()
    (folder / "soft.py").write_text(
        "import nowhere\n\n\ndef build(size: int, *, weight: float = 0.5, parts: tuple[int, ...] = (1, 2), "
        'color: Literal["red", "blue"] = "red", most: Annotated[int, Field(ge=1)] = 3) -> None:\n    """A toy."""\n'
    )
    (folder / "marked.py").write_text(
        "def build(*, first: Annotated[str, OptionRole.WEIGHTS] | None = None, last: Annotated[str, OptionRole.WEIGHTS] = '', "
        "levels: Annotated[tuple[int, ...], Field(min_length=1), OptionRole.STRIDES] = (8,), plain: str = '') -> None:\n    pass\n"
    )
    (folder / "hard.py").write_text("def build(*, weight=1, kind: Path = 3) -> None:\n    pass\n")
    (folder / "strange.py").write_text("def build(*, kind: Path = 3) -> None:\n    pass\n")
    (folder / "empty.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return "toys"


def test_names_are_the_files(package: str) -> None:
    assert plugins.names(package) == ["empty", "hard", "marked", "soft", "strange"]


def test_defaults_are_filled_in_without_importing_the_plugin(package: str) -> None:
    filled = plugins.fill(package, {"name": "soft", "weight": 2, "own": 1}, own=("own",))
    assert filled == {"name": "soft", "own": 1, "weight": 2.0, "parts": (1, 2), "color": "red", "most": 3}


def test_options_are_found_by_their_role(package: str) -> None:
    assert plugins.options_of(package, "marked", plugins.OptionRole.WEIGHTS) == ("first", "last")
    assert plugins.options_of(package, "marked", plugins.OptionRole.STRIDES) == ("levels",)
    assert plugins.options_of(package, "soft", plugins.OptionRole.WEIGHTS) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "sofd"}, r"no 'sofd' in toys \(did you mean soft\?\); choose from empty, hard, marked, soft, strange"),
        ({"name": "_shared"}, "no '_shared' in toys"),
        ({"name": "../soft"}, "no '../soft' in toys"),
        ({"nam": "soft"}, "expected a mapping with 'name'"),
        ({"name": 3}, "expected a mapping with 'name'"),
        ("soft", "expected a mapping with 'name'"),
        ({"name": "soft", "wieght": 1}, r"soft has no option 'wieght' \(did you mean weight\?\); available: weight, parts, color, most"),
        ({"name": "soft", "size": 1}, "soft has no option 'size'"),
        ({"name": "soft", True: 1}, "soft has no option 'True'"),
        ({"name": "soft", 3: 1}, "soft has no option '3'"),
        ({"name": "soft", "weight": "much"}, "soft: weight: .*got 'much'"),
        ({"name": "soft", "weight": float("nan")}, "soft: weight: "),
        ({"name": "soft", "color": "green"}, "soft: color: "),
        ({"name": "soft", "most": 0}, "soft: most: "),
        ({"name": "soft", "parts": [1, "x"]}, "soft: parts.1: "),
        ({"name": "empty"}, "defines no function build"),
        ({"name": "hard"}, "option weight of build has no annotation"),
        ({"name": "strange"}, "may use only .*Literal"),
    ],
)
def test_a_wrong_choice_is_refused(package: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plugins.fill(package, value)


@pytest.fixture
def sharing(package: str, tmp_path: Path) -> str:
    """The folder of plugins with two more, which take options from a module of a folder below."""
    parts = tmp_path / package / "parts"
    parts.mkdir()
    (parts / "__init__.py").write_text("import nowhere\n")
    (parts / "options.py").write_text(
        'from typing import Annotated\n\nfrom pydantic import Field\n\nWidth = Annotated[int, Field(ge=8, description="how wide")]\n'
        'Widths = tuple[Width, ...]\nSMALL = {"width": 8}\n'
    )
    (tmp_path / package / "wide.py").write_text(
        "import nowhere\nfrom toys.parts.options import SMALL, Width, Widths\n\nTINY = {**SMALL, 'more': (9,)}\n\n\n"
        "def build(*, width: Width = 16, own: Width = 8, more: Widths = (), depth: int = 1) -> None:\n"
        '    """A toy.\n\n    Args:\n        own: how wide it is\n            itself.\n        depth: how deep; null: 1.\n\n'
        '    Raises:\n        ValueError: never.\n    """\n'
    )
    (tmp_path / package / "lost.py").write_text(
        "from toys.parts.options import Width\n\n\ndef build(*, size: Size = 1) -> None:\n    pass\n"
    )
    return package


def test_a_shared_option_keeps_its_limits_and_its_meaning(sharing: str) -> None:
    assert plugins.fill(sharing, {"name": "wide", "width": 8, "more": [8]})["width"] == 8
    with pytest.raises(ValueError, match=r"wide: width: .*got 7"):
        plugins.fill(sharing, {"name": "wide", "width": 7})
    with pytest.raises(ValueError, match=r"wide: more\.0: .*got 7"):
        plugins.fill(sharing, {"name": "wide", "more": [7]})
    meanings = {option: field.description for option, field in plugins.schema(sharing, "wide").model_fields.items()}
    assert meanings == {"width": "how wide", "own": "how wide it is itself", "more": None, "depth": "how deep; null: 1"}


def test_an_option_that_the_plugin_describes_itself_is_not_shared(sharing: str) -> None:
    assert plugins.shared(sharing, "wide") == {"width": "parts.options", "more": "parts.options"}
    assert plugins.shared(sharing, "soft") == {}


def test_a_constant_is_read_without_importing_the_plugin(sharing: str) -> None:
    assert plugins.constant(sharing, "wide", "TINY") == {"width": 8, "more": (9,)}
    assert plugins.constant(sharing, "soft", "TINY", {}) == {}


def test_a_type_that_is_nowhere_is_refused_with_those_that_can_be_used(sharing: str) -> None:
    with pytest.raises(ValueError, match=r"may use only .*Width.*, and constants of a module options in a folder below.*'Size'"):
        plugins.fill(sharing, {"name": "lost"})
