"""Documents of strangers cost at most what their bounds allow."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.errors import ConfigError, DataError
from deploy.machine.documents import DEEPEST, parse_json
from pipeline.config.document import parse, read_document
from stages.datasets.layouts.entries import document
from stages.datasets.layouts.yolo import head
from stages.datasets.layouts.yolo.names import _label_studio
from stages.notes import Notes

LEVELS = 9


def bomb(first: str, again: str) -> str:
    """Anchors of which each stands for nine of the one before."""
    more = (f"a{level}: &a{level} " + again.format(", ".join([f"*a{level - 1}"] * 9)) for level in range(1, LEVELS))
    return "\n".join([f"a0: &a0 {first}", *more])


def chain(length: int) -> str:
    return "\n".join(["a0: &a0 [x]", *(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, length))])


BOMBS = {
    "aliases in lists": (bomb("[x, x]", "[{0}]"), "values, aliases included"),
    "aliases in mappings": (bomb("{x: 1}", "{{k: [{0}]}}"), "values, aliases included"),
    "merged mappings": (bomb("{x: 1}", "{{<<: [{0}]}}"), "values, aliases included"),
    "nested lists": (f"a: {'[' * 3000}", "nested more than 64 levels deep"),
    "nested mappings": (f"{'{a: ' * 300}1{'}' * 300}", "nested more than 64 levels deep"),
    "a chain of aliases": (chain(2000), "nested more than 64 levels deep"),
    "an alias in itself": ("a: &a [*a]", "an alias that contains itself"),
    "an alias deep in itself": ("a: &a {b: {c: [1, *a]}}", "an alias that contains itself"),
}

NUMBERS = {
    "binary digits": "0b" + "1" * 100_000,
    "decimal digits": "1" * 5_000,
    "few digits too many": "1" * 101,
    "base sixty": ":".join(["1"] * 20_000),
    "a fraction": "0." + "1" * 5_000,
}
TEXT = ("0b", "1:")
"""How numbers begin that are text in a configuration, unless they are tagged as numbers."""


class TestYaml:
    @pytest.mark.parametrize(("text", "message"), BOMBS.values(), ids=BOMBS)
    def test_bombs_are_refused_at_once_in_a_configuration_and_in_a_data_file(self, text: str, message: str) -> None:
        started = time.process_time()
        with pytest.raises(ConfigError, match=message):
            parse(text, "given")
        with pytest.raises(ValueError, match=message):
            head.load(text)
        assert time.process_time() - started < 5

    @pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
    def test_endless_numbers_are_refused_in_a_file_and_on_the_command_line(self, number: str) -> None:
        message, text = r"a number of [\d,]+ characters, allowed: 100", f"seed: {number}"
        for label in ("p.yaml", "--set seed=..."):
            if number.startswith(TEXT):
                assert parse(text, label) == {"seed": number}
            else:
                with pytest.raises(ConfigError, match=message):
                    parse(text, label)
            with pytest.raises(ConfigError, match=message):
                parse(f"seed: !!int {number}", label)

    @pytest.mark.parametrize("value", ["!!bool x", "!!timestamp x", "!!int ''", "!!int x", "!!float x", "!!binary x"])
    def test_values_that_do_not_fit_their_tag_are_refused(self, value: str) -> None:
        with pytest.raises(ConfigError, match="given: "):
            parse(f"a: {value}", "given")

    def test_a_key_that_is_a_list_is_refused_with_its_line(self) -> None:
        with pytest.raises(ConfigError, match="given:2: found unhashable key"):
            parse("x: 1\n? [a, b]\n: c", "given")

    def test_ordinary_aliases_merges_and_many_values_are_read(self) -> None:
        text = "base: &base {a: 1, b: [1, 2]}\nother: {<<: *base, b: 3}\nagain: [*base, *base]\nmany: [" + "1, " * 20_000 + "]"
        found = parse(text, "given")
        assert found["other"] == {"a": 1, "b": 3}
        assert found["again"] == [{"a": 1, "b": [1, 2]}] * 2
        assert found["again"][0] is not found["again"][1]
        assert len(found["many"]) == 20_000

    def test_the_limit_itself_is_allowed(self) -> None:
        assert parse("[" * DEEPEST + "]" * DEEPEST, "given")
        assert parse("1" * 100, "given") == int("1" * 100)

    def test_a_configuration_of_megabytes_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "p.yaml").write_text("#" * 2**20 + "\nname: x\n")
        with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
            read_document(tmp_path / "p.yaml")

    def test_a_long_chain_of_files_is_refused(self, tmp_path: Path) -> None:
        for number in range(40):
            (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
        with pytest.raises(ConfigError, match="more than 20 files that extend one another"):
            read_document(tmp_path / "0.yaml")


class TestYoloNumbers:
    def test_a_number_of_classes_with_thousands_of_digits_is_none(self) -> None:
        assert head._whole("9" * 5_000) is None
        assert head._whole("80") == 80


DEEP: dict[str, Callable[[], str]] = {
    "open lists": lambda: "[" * 100_000,
    "closed lists": lambda: "[" * 200_000 + "]" * 200_000,
    "just too deep": lambda: "[" * 65 + "]" * 65,
    "mappings": lambda: '{"a":' * 65 + "1" + "}" * 65,
    "hidden by brackets in texts": lambda: '["[[[[",' + "[" * 65 + "]" * 65 + "]",
}


class TestJson:
    @pytest.mark.parametrize("make", DEEP.values(), ids=DEEP)
    def test_deep_nesting_is_refused(self, make: Callable[[], str]) -> None:
        with pytest.raises(ValueError, match="nested more than 64 levels deep"):
            parse_json(make())

    @pytest.mark.parametrize("sign", ["", "-"])
    def test_whole_numbers_of_400_digits_are_refused(self, sign: str) -> None:
        with pytest.raises(ValueError, match=r"a number of 40\d digits, allowed: 100"):
            parse_json(f'{{"a": {sign}{"1" * 400}}}')

    @pytest.mark.parametrize("value", [{"a": "1" * 400}, {"a": "[" * 99}, [0.125] * 3, {"id": 10**90}, json.loads("[" * 64 + "]" * 64)])
    def test_what_only_looks_like_it_is_read(self, value: object) -> None:
        assert parse_json(json.dumps(value)) == value
        assert parse_json(b"\xef\xbb\xbf" + json.dumps(value).encode()) == value

    def test_a_coco_file_of_such_numbers_or_levels_is_refused_in_one_line(self, tmp_path: Path) -> None:
        path = tmp_path / "instances_train.json"
        for text in ('{"images": [{"id": ' + "1" * 400 + "}]}", '{"images": ' + "[" * 70 + "]" * 70 + "}", "[" * 99_999):
            path.write_text(text)
            with pytest.raises(DataError, match=r"instances_train\.json: not JSON \((a number of 400|nested)") as caught:
                document.read(path, Notes(), "train")
            assert "\n" not in str(caught.value)

    def test_anyones_notes_next_to_yolo_files_are_ignored(self, tmp_path: Path) -> None:
        for text in ("[" * 99_999, '{"categories": ' + "1" * 5_000 + "}", "\udcff"):
            (tmp_path / "notes.json").write_bytes(text.encode("utf-8", "surrogatepass"))
            assert _label_studio(tmp_path) == {}
