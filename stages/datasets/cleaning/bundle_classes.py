"""The classes of a data set against those of a bundle: matched by name, because layouts number them differently."""

from collections.abc import Mapping
from dataclasses import replace

from deploy.contract import ModelContract
from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.cleaning import rules
from stages.datasets.tables.rows import Rows, light
from stages.notes import Kind, Notes

RENUMBERED = Kind("class numbered differently from the bundle", "repaired", "classes")


def numbered_as(expected: ModelContract, sources: Mapping[str, Source]) -> dict[str, Source]:
    """The splits with the bundle's category ids; a category without objects that the bundle lacks is dropped.

    Raises:
        DataError: a split breaks a rule, or has objects of a class that is not in the bundle.
    """
    return {split: _renumbered(split, source, expected) for split, source in sources.items()}


def _renumbered(split: str, source: Source, expected: ModelContract) -> Source:
    rules.check(split, source.coco)
    wanted = dict(zip(expected.classes, expected.category_ids, strict=True))
    found = rules.categories(source.coco)
    if found == {number: name for name, number in wanted.items()}:
        return source
    used = {int(row["category_id"]) for row in light(source.coco["annotations"])}
    unknown = [name for number, name in found.items() if name not in wanted and number in used]
    if unknown or not wanted.keys() & set(found.values()):
        names = ", ".join(map(repr, unknown or found.values()))
        raise DataError(f"{split}: {names} in the data but not in the bundle, which has {', '.join(wanted)}; use the bundle's class names")
    if len(set(found.values())) < len(found):
        raise DataError(f"{split}: two categories have the same name, so they cannot be matched with the bundle's; name them differently")
    notes = Notes()
    for number, name in found.items():
        if name in wanted and wanted[name] != number:
            notes.add(RENUMBERED, split, f"{name}: {number} in the data is {wanted[name]} in the bundle")
    ids = {number: wanted[name] for number, name in found.items() if name in wanted}
    coco = {
        **source.coco,
        "annotations": Rows.kept({**row, "category_id": ids[int(row["category_id"])]} for row in source.coco["annotations"]),
        "categories": [{"id": number, "name": name} for name, number in wanted.items()],
    }
    return replace(source, coco=coco, notes=(*source.notes, *notes))
