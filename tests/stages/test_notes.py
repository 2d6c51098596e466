"""The notes on a data set as lines: their order, their limit, and the reminder below the tables."""

from stages.notes import MOST_LINES, Kind, Note, Notes, note_lines, reminder


def notes(**counts: int) -> list[Note]:
    """One kind of note per action, named like it, with this number of cases each."""
    found = Notes()
    for action, count in counts.items():
        words = action.replace("_", " ")
        found.add(Kind(f"{words} things", words, "boxes"), "train", "a.jpg", count=count)  # type: ignore[arg-type]
    return list(found)


def test_the_most_serious_first() -> None:
    assert note_lines(notes(repaired=1, divided=2, assumed=3, left_out=4)) == [
        "data: train: left out: left out things: 4 boxes, first: a.jpg",
        "data: train: assumed: assumed things: 3 boxes, first: a.jpg",
        "data: train: repaired: repaired things: 1 box, first: a.jpg",
        "data: train: divided: divided things: 2 boxes, first: a.jpg",
    ]


def test_many_kinds_end_in_a_count_of_the_rest() -> None:
    found = Notes()
    for number in range(MOST_LINES + 3):
        found.add(Kind(f"kind {number}", "repaired", "files"), "train", f"{number}.xml")
    found.add(Kind("lost", "left out", "images"), "val", "b.jpg")
    lines = note_lines(list(found))
    assert len(lines) == MOST_LINES + 1 == 21
    assert lines[0] == "data: val: left out: lost: 1 image, first: b.jpg"
    assert lines[-1] == "data: and 4 more kinds of notes, see summary.json"
    assert note_lines(list(found)[:MOST_LINES])[-1].startswith(f"data: train: repaired: kind {MOST_LINES - 1}: ")


def test_of_many_cases_the_first_few_are_kept() -> None:
    found = Notes()
    for number in range(9):
        found.add(Kind("lost", "left out", "images"), "train", f"{number}.jpg", image=f"{number // 2}.jpg")
    (note,) = found
    assert (note.count, len(note.examples), note.images) == (9, 5, ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"))


def test_the_reminder_is_of_what_was_left_out_or_assumed() -> None:
    assert reminder([one.model_dump() for one in notes(repaired=1, divided=1)]) is None
    assert reminder([one.model_dump() for one in notes(assumed=2)]) == (
        "! data: train: assumed: assumed things: 2 boxes, first: a.jpg; see report.html"
    )
    found = [one.model_dump() for one in notes(repaired=1, assumed=2, left_out=3)]
    assert reminder(found) == "! data: train: left out: left out things: 3 boxes, first: a.jpg (and 1 more note); see report.html"
