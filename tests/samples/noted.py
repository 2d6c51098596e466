"""The notes on a data set as tests compare them."""

from stages.facts import DatasetFacts


def counts(facts: DatasetFacts) -> dict[str, int]:
    """The number of cases by kind, over all splits."""
    found: dict[str, int] = {}
    for note in facts.notes:
        found[note.kind] = found.get(note.kind, 0) + note.count
    return found


def examples(facts: DatasetFacts, kind: str) -> list[str]:
    """The first cases of a kind in words, split by split."""
    return [example for note in facts.notes if note.kind == kind for example in note.examples]
