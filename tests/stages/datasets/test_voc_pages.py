"""Single XML files of Pascal VOC data sets: encodings, boxes in every form that tools write, class names."""

import codecs
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deploy.errors import DataError
from stages.datasets import Source, voc

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>8</ymax></bndbox>"


def box(*corners: object) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    return "<bndbox>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, corners, strict=True)) + "</bndbox>"


def thing(inside: str = BOX, name: str = "cat") -> str:
    return f"<object><name>{name}</name>{inside}</object>"


def page(*things: str, filename: str = "", size: tuple[object, object] = (40, 30)) -> str:
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{sides}{''.join(things)}</annotation>"


def build(root: Path, *pages: str | bytes, names: list[str] | None = None) -> Source:
    """One split of images a.png, b.png, and so on, with these XML files."""
    (root / "JPEGImages").mkdir()
    (root / "Annotations").mkdir()
    for stem, text in zip("abcdefgh", pages, strict=False):
        Image.new("RGB", (40, 30), "white").save(root / f"JPEGImages/{stem}.png")
        (root / f"Annotations/{stem}.xml").write_bytes(text.encode() if isinstance(text, str) else text)
    return voc.build(root, root=str(root), names=names)["train"]


def boxes(source: Source) -> list[list[float]]:
    return [row["bbox"] for row in source.coco["annotations"]]


def classes(source: Source) -> list[str]:
    return [row["name"] for row in source.coco["categories"]]


def notes(source: Source) -> dict[str, tuple[str, int]]:
    return {note.kind: (note.action, note.count) for note in source.notes}


class TestEncodings:
    @pytest.mark.parametrize(
        ("name", "declared", "actual", "mark"),
        [
            ("红色", "gb2312", "gb2312", b""),
            ("红色", "GB2312", "gbk", b""),
            ("鎔", "gb2312", "gbk", b""),  # not in GB 2312, which tools declare all the same
            ("紅", "big5", "big5", b""),
            ("赤い", "Shift_JIS", "shift_jis", b""),
            ("빨강", "euc-kr", "euc-kr", b""),
            ("Käfer", "iso-8859-1", "latin-1", b""),
            ("Käfer", "windows-1252", "cp1252", b""),
            ("красный", "windows-1251", "cp1251", b""),
            ("红色", "utf-16", "utf-16-le", codecs.BOM_UTF16_LE),
            ("红色", "utf-16", "utf-16-be", codecs.BOM_UTF16_BE),
            ("红色", "utf-16", "utf-16-le", b""),
            ("cat", "utf-16", "utf-16-be", b""),
            ("红色", "gb2312", "utf-8", codecs.BOM_UTF8),
            ("红色", "gb2312", "utf-8", b""),
            ("红色", "utf-16", "utf-8", b""),
            ("红色", "no-such-encoding", "utf-8", b""),
            ("红色", "hex", "utf-8", b""),
        ],
    )
    def test_is_read_and_noted(self, tmp_path: Path, name: str, declared: str, actual: str, mark: bytes) -> None:
        text = f'<?xml version="1.0" encoding="{declared}"?>\n' + page(thing(name=name))
        source = build(tmp_path, mark + text.encode(actual))
        assert classes(source) == [name]
        assert boxes(source) == [[1, 2, 4, 6]]
        ((action, count),) = notes(source).values()
        assert (action, count) == ("repaired", 1)

    def test_a_name_that_two_encodings_can_read_is_an_assumption(self, tmp_path: Path) -> None:
        source = build(tmp_path, b'<?xml version="1.0" encoding="iso-8859-1"?>' + page(thing(name="K\u00e4fer")).encode())
        assert classes(source) == ["K\u00c3\u00a4fer"]  # as declared
        ((action, count),) = notes(source).values()
        assert (action, count) == ("assumed", 1)

    def test_plain_text_needs_no_note(self, tmp_path: Path) -> None:
        source = build(tmp_path, b'<?xml version="1.0" encoding="gb2312"?>' + page(thing()).encode(), page(thing(name="红色")))
        assert source.notes == ()
        assert classes(source) == ["cat", "红色"]

    def test_a_path_in_a_different_encoding_changes_nothing(self, tmp_path: Path) -> None:
        text = page(thing()).replace("<filename>", "<path>D:\\标注\\a.png</path><filename>").encode("gbk")
        source = build(tmp_path, b'<?xml version="1.0" encoding="utf-8"?>' + text)
        assert boxes(source) == [[1, 2, 4, 6]]
        assert notes(source) == {"XML that is not in the encoding it declares": ("repaired", 1)}

    @pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
    def test_a_class_in_a_different_encoding_is_refused(self, tmp_path: Path, encoding: str) -> None:
        name = "红" if encoding == "gbk" else "Käfer"
        with pytest.raises(
            DataError, match=r"a\.xml: the class name '.*' is not in the encoding that the file declares; save the file as UTF-8"
        ):
            build(tmp_path, page(thing(name=name)).encode(encoding))


class TestXml:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            page(thing())[:-30],
            "not XML",
            "<annotation>" * 5,
            page(thing()) + page(thing()),
            page(thing()).replace("cat", "c\0at"),
            page(thing()).replace("</name>", "<name>"),
        ],
    )
    def test_a_broken_file_is_named(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(DataError, match=r"Annotations/a\.xml: not readable as XML") as error:
            build(tmp_path, text)
        assert "\n" not in str(error.value)

    def test_entities_are_refused(self, tmp_path: Path) -> None:
        bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>' + page(thing(name="&c;"))
        with pytest.raises(DataError, match=r"a\.xml: defines entities"):
            build(tmp_path, bomb)

    def test_a_deep_file_is_no_problem(self, tmp_path: Path) -> None:
        assert boxes(build(tmp_path, page(thing(), "<x>" * 20_000 + "</x>" * 20_000))) == [[1, 2, 4, 6]]

    def test_a_bare_ampersand(self, tmp_path: Path) -> None:
        source = build(tmp_path, page(thing(name="salt & pepper"), thing(name="a&amp;b"), filename="x&y.png"))
        assert classes(source) == ["a&b", "salt & pepper"]
        assert notes(source)["XML with a bare &"] == ("repaired", 1)

    def test_namespaces_and_uppercase_tags(self, tmp_path: Path) -> None:
        spaced = page(thing()).replace("<annotation>", '<annotation xmlns="http://x.org/voc">')
        shouted = page(thing()).replace("object", "Object").replace("bndbox", "BndBox").replace("xmin", "XMin").replace("name>", "Name>")
        assert boxes(build(tmp_path, spaced, " \n" + shouted)) == [[1, 2, 4, 6]] * 2

    def test_a_file_of_a_different_format(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        with pytest.raises(DataError, match=r"a\.xml: starts with <annotations>, CVAT's own format, not with Pascal VOC's <annotation>"):
            build(tmp_path / "sub", "<annotations><image/></annotations>")

    def test_other_xml_files_are_left_out(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
        (tmp_path / "a.xml").write_text(page(thing()))
        (tmp_path / "data.xml").write_text("<opencv_storage/>")
        source = voc.build(tmp_path, root=str(tmp_path))["train"]
        assert boxes(source) == [[1, 2, 4, 6]]
        assert [str(note) for note in source.notes] == [
            "train: left out: XML file that is not Pascal VOC: 1 file, first: data.xml: <opencv_storage>"
        ]

    @pytest.mark.parametrize(
        ("size", "sides"), [((0, 0), {}), (("", "x"), {}), (("40.0", 30), {"width": 40, "height": 30}), ((-4, "nan"), {})]
    )
    def test_sizes(self, tmp_path: Path, size: tuple[object, object], sides: dict[str, int]) -> None:
        (image,) = build(tmp_path, page(thing(), size=size)).coco["images"]
        assert {key: value for key, value in image.items() if key in ("width", "height")} == sides


class TestBoxes:
    @pytest.mark.parametrize(
        ("inside", "expected"),
        [
            (box("12.0", " 3 ", "\n20.5", "1e1"), [12, 3, 8.5, 7]),
            (box(-3, -1, 41, 31), [-3, -1, 44, 32]),
            (box(0, 0, 40, 30), [0, 0, 40, 30]),
            ("<bndbox><ymax>8</ymax><xmax>5</xmax><ymin>2</ymin><xmin>1</xmin></bndbox>", [1, 2, 4, 6]),
            ("<part><name>head</name>" + box(30, 20, 35, 25) + "</part>" + BOX, [1, 2, 4, 6]),
            ("<object><name>dog</name>" + box(30, 20, 35, 25) + "</object>" + BOX, [1, 2, 4, 6]),
            ("<polygon><x1>1</x1><y1>2</y1></polygon>" + BOX, [1, 2, 4, 6]),
            ("<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>" + BOX, [1, 2, 4, 6]),
            ("<difficult>Unspecified</difficult><truncated>1</truncated><pose>Left</pose>" + BOX, [1, 2, 4, 6]),
        ],
    )
    def test_is_read_without_a_note(self, tmp_path: Path, inside: str, expected: list[float]) -> None:
        source = build(tmp_path, page(thing(inside)))
        assert boxes(source) == [expected]
        assert [row["iscrowd"] for row in source.coco["annotations"]] == [0]
        assert source.notes == ()

    @pytest.mark.parametrize(
        ("inside", "expected", "kind"),
        [
            (
                "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>" + box(10, 10, 20, 14),
                [13, 7, 4, 10],
                "rotated box as the upright box around it",
            ),
            (
                "<robndbox><cx>20</cx><cy>15</cy><w>10</w><h>4</h><angle>1.5707963267948966</angle></robndbox>",
                [18, 10, 4, 10],
                "rotated box as the upright box around it",
            ),
            (
                "<robndbox><cx>20</cx><cy>15</cy><w>4</w><h>4</h><angle>0.7853981633974483</angle></robndbox>",
                [20 - 8**0.5, 15 - 8**0.5, 2 * 8**0.5, 2 * 8**0.5],
                "rotated box as the upright box around it",
            ),
            (
                "<polygon><pt><x>3</x><y>9</y></pt><pt><x>7</x><y>4</y></pt><pt><x>5</x><y>12</y></pt></polygon>",
                [3, 4, 4, 8],
                "outline as the box around it",
            ),
            (
                "<polygon><x1>3</x1><y1>9</y1><x2>7</x2><y2>4</y2><x3>5</x3><y3>12</y3></polygon>",
                [3, 4, 4, 8],
                "outline as the box around it",
            ),
        ],
    )
    def test_other_shapes(self, tmp_path: Path, inside: str, expected: list[float], kind: str) -> None:
        source = build(tmp_path, page(thing(inside)))
        assert boxes(source) == [pytest.approx(expected)]
        assert notes(source) == {kind: ("repaired", 1)}

    @pytest.mark.parametrize(
        ("added", "kind"),
        [
            (thing(""), "object without a box"),
            (thing("<bndbox/>"), "object without a box"),
            (thing("<part><name>head</name>" + BOX + "</part>"), "object without a box"),
            (thing("<point><x>3</x><y>4</y></point>"), "object without a box"),
            (thing("<polygon><pt><x>3</x><y>9</y></pt></polygon>"), "object without a box"),
            (thing(name=" "), "object without a class"),
            (f"<object>{BOX}</object>", "object without a class"),
            (thing("<deleted>1</deleted>" + BOX), "object marked as deleted"),
        ],
    )
    def test_objects_left_out(self, tmp_path: Path, added: str, kind: str) -> None:
        source = build(tmp_path, page(thing(), added))
        assert boxes(source) == [[1, 2, 4, 6]]
        assert notes(source) == {kind: ("left out", 1)}

    def test_swapped_corners(self, tmp_path: Path) -> None:
        source = build(tmp_path, page(thing(box(9, 2, 4, 8)), thing(box(9, 8, 4, 2)), thing(box(20, 10, 35, 25)), thing(), thing()))
        assert boxes(source)[:2] == [[4, 2, 5, 6], [4, 2, 5, 6]]
        (note,) = source.notes
        assert (note.kind, note.action, note.count) == ("box with its corners swapped", "repaired", 2)
        assert note.examples[0] == "a.xml: xmin 9 ymin 2 xmax 4 ymax 8"

    def test_width_and_height_instead_of_corners(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"b\.xml: xmax or ymax is below xmin or ymin in 2 of 3 boxes; they may be width and height"):
            build(tmp_path, page(thing(box(2, 3, 10, 8))), page(thing(box(20, 10, 10, 8)), thing(box(5, 20, 30, 10))))

    @pytest.mark.parametrize(
        ("pages", "message"),
        [
            ([page(thing(box(0.1, 0.2, 0.5, 0.8)))], r"a\.xml: the box 0\.1 0\.2 0\.5 0\.8 is in fractions of the image"),
            ([page(thing()), page(thing(box(0.1, 0, 1, 1)))], r"b\.xml: the box 0\.1 0 1 1 is in fractions"),
            ([page(thing(box(0, 0, 1, 1))), page()], r"a\.xml: all boxes are within 0 and 1"),
            ([page(thing(box("one", 2, 3, 4)))], r"a\.xml: <xmin> in <bndbox> is 'one'; it should be a number of px"),
            ([page(thing(box(1, 2, "1,5", 4)))], r"a\.xml: <xmax> in <bndbox> is '1,5'"),
            ([page(thing(box(1, "1_0", 5, 40)))], r"a\.xml: <ymin> in <bndbox> is '1_0'"),
            ([page(thing(box(1, 2, "5\n.0", 40)))], r"a\.xml: <xmax> in <bndbox> is '5 \.0'"),
            ([page(thing(box(1, 2, 5, "")))], r"a\.xml: <ymax> in <bndbox> is missing or empty"),
            ([page(thing("<bndbox><xmin>1</xmin><ymin>1</ymin></bndbox>"))], r"a\.xml: <xmax> in <bndbox> is missing"),
            ([page(thing(BOX + BOX))], r"a\.xml: an object with 2 boxes"),
            ([page(), page()], r"a\.xml: no object with a class, as in all 2 XML files; label some, or set data\.names"),
            (
                [page(thing("<robndbox><cx>9</cx><cy>9</cy><w>4</w><h>4</h><angle>90</angle></robndbox>"))],
                r"a\.xml: <robndbox> with the angle 90",
            ),
        ],
    )
    def test_refused(self, tmp_path: Path, pages: list[str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            build(tmp_path, *pages)

    def test_a_box_of_one_px_at_the_corner(self, tmp_path: Path) -> None:
        assert boxes(build(tmp_path, page(thing(box(0, 0, 1, 1)), thing()))) == [[0, 0, 1, 1], [1, 2, 4, 6]]

    def test_boxes_that_may_be_in_percent(self, tmp_path: Path) -> None:
        things = [thing(box(number, 2, number + 20.5, 90)) for number in range(10)]
        (tmp_path / "large").mkdir()
        (tmp_path / "small").mkdir()
        source = build(tmp_path / "large", page(*things, size=(640, 480)))
        assert notes(source) == {"box that may be in percent": ("assumed", 10)}
        assert build(tmp_path / "small", page(*things, size=(120, 100))).notes == ()

    @pytest.mark.parametrize("corners", [(0.1, 0.4, 1.3, 1.6), (0.1, 2, 0.9, 25), (4, 0, 9, 1), (0.2, 8.2, 0.7, 19.4)])
    def test_fractions_made_with_a_size_that_is_not_the_images(self, tmp_path: Path, corners: tuple[float, ...]) -> None:
        source = build(tmp_path, page(thing(box(*corners)), thing()))
        assert notes(source) == {"box below 2 px at an edge, perhaps a fraction": ("assumed", 1)}

    @pytest.mark.parametrize("corners", [(0, 1, 2, 9), (0.5, 0.5, 2.5, 2.5), (1, 1, 2, 2)])
    def test_a_thin_box_at_an_edge_is_no_doubt(self, tmp_path: Path, corners: tuple[float, ...]) -> None:
        assert notes(build(tmp_path, page(thing(box(*corners)), thing()))) == {}

    @pytest.mark.parametrize("text", ["1", "true", "True", " 1 ", "yes"])
    def test_difficult(self, tmp_path: Path, text: str) -> None:
        source = build(tmp_path, page(thing(f"<difficult>{text}</difficult>{BOX}")))
        assert [row["iscrowd"] for row in source.coco["annotations"]] == [1]


class TestClasses:
    def test_spaces_around_names(self, tmp_path: Path) -> None:
        source = build(tmp_path, page(thing(name=" cat "), thing(name="cat\n"), thing(name="big  cat")))
        assert classes(source) == ["big cat", "cat"]
        assert source.notes == ()

    def test_names_that_are_almost_the_same_are_kept_apart(self, tmp_path: Path) -> None:
        source = build(tmp_path, page(thing(name="Cat"), thing(name="traffic_light")), page(thing(), thing(), thing(name="traffic light")))
        assert classes(source) == ["Cat", "cat", "traffic light", "traffic_light"]
        (note,) = source.notes
        assert (note.action, note.unit, note.count) == ("assumed", "classes", 4)
        assert note.examples[0] == "'Cat' (1 boxes) and 'cat' (2 boxes) are kept apart"

    @pytest.mark.parametrize("given", [["cat", "dog"], ["dog", "cat"]])
    def test_data_names_decide(self, tmp_path: Path, given: list[Any]) -> None:
        source = build(tmp_path, page(thing(name="Cat"), thing(), thing(name="dog")), names=given)
        assert classes(source) == given
        numbers = [given.index("cat") + 1] * 2 + [given.index("dog") + 1]
        assert [row["category_id"] for row in source.coco["annotations"]] == numbers
        assert notes(source) == {"class name spelled differently from data.names": ("repaired", 1)}

    def test_a_class_that_is_not_in_data_names(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"b\.xml: unknown class 'dog'; data\.names has cat, bird"):
            build(tmp_path, page(thing()), page(thing(name="dog")), names=["cat", "bird"])
