"""What holds of every loss, and of each what it promises."""

import ast
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from loss_samples import fresh, known, outputs, pair, seen, targets
from torch import Tensor

from deploy import plugins
from stages.detectors import Reading
from stages.losses import Invariance

Terms = dict[str, Tensor]
SIZE = 64


def total(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def batch(name: str) -> tuple[Terms, Terms]:
    """One image, and the same eight times."""
    student, teacher = pair(name)
    loss = fresh(name, student, teacher)
    one, other = outputs(student, seed=1, batch=1), outputs(teacher, seed=2, batch=1)
    own, theirs = (tuple(level.repeat(8, 1, 1, 1) for level in made.pyramid) for made in (one, other))
    return loss(one, other, targets(1)), loss(seen(student, own, SIZE), seen(teacher, theirs, SIZE), targets(8))


def size(name: str) -> tuple[Terms, Terms]:
    """An image, and one of twice the size that repeats it four times."""
    student, teacher = pair(name)
    loss = fresh(name, student, teacher)
    one, other = outputs(student, seed=1), outputs(teacher, seed=2)
    own, theirs = (tuple(level.repeat(1, 1, 2, 2) for level in made.pyramid) for made in (one, other))
    repeated = targets(offsets=((0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE)))
    return loss(one, other, targets()), loss(seen(student, own, 2 * SIZE), seen(teacher, theirs, 2 * SIZE), repeated)


def scale(name: str) -> tuple[Terms, Terms]:
    """A teacher's features, and each level of them larger by a number of its own."""
    return scaled(name, lambda level: torch.tensor(30.0 + level.shape[-1]))


def channel_scale(name: str) -> tuple[Terms, Terms]:
    """A teacher's features, and each channel of them larger by a number of its own."""
    return scaled(name, lambda level: torch.linspace(1, 30, level.shape[1])[:, None, None])


def scaled(name: str, factor: Callable[[Tensor], Tensor]) -> tuple[Terms, Terms]:
    student, teacher = pair(name)
    loss = fresh(name, student, teacher)
    one, other = outputs(student, seed=1), outputs(teacher, seed=2)
    larger = tuple(level * factor(level) for level in other.pyramid)
    return loss(one, other, targets()), loss(one, seen(teacher, larger, SIZE), targets())


CHANGES: dict[Invariance, Callable[[str], tuple[Terms, Terms]]] = {
    "batch": batch,
    "size": size,
    "scale": scale,
    "channel_scale": channel_scale,
}
"""A loss's terms before and after a change that it may promise not to notice."""


@pytest.mark.parametrize("name", plugins.names("stages.losses"))
class TestEveryLoss:
    def test_declares_what_it_reads_and_promises(self, name: str) -> None:
        """As literals, so that they can be read without torch."""
        tree = ast.parse(plugins.source("stages.losses", name).read_text(encoding="utf-8"))
        assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        reads, promises = (ast.literal_eval(assigned[constant]) for constant in ("READS", "INVARIANT_TO"))
        assert reads
        assert set(reads) <= set(get_args(Reading))
        assert set(promises) <= set(get_args(Invariance))

    def test_gives_finite_named_scalars(self, name: str) -> None:
        student, teacher = pair(name)
        terms = fresh(name, student, teacher)(outputs(student, seed=1), outputs(teacher, seed=2), targets())
        assert terms
        for term, value in terms.items():
            assert value.shape == (), term
            assert torch.isfinite(value), term
        assert any(value != 0 for value in terms.values())

    def test_only_the_student_and_the_adapters_get_gradient(self, name: str) -> None:
        student, teacher = pair(name)
        loss, own = fresh(name, student, teacher), outputs(student, seed=1)
        with torch.no_grad():
            other = outputs(teacher, seed=2)
        total(loss(own, other, targets())).backward()
        assert any(level.grad is not None and level.grad.abs().sum() > 0 for level in own.pyramid)
        assert all(level.grad is None for level in other.pyramid)
        assert all(p.grad is not None for p in loss.parameters())

    def test_has_finite_gradient_at_zero_and_equal_features(self, name: str) -> None:
        student, _ = pair(name)
        for scale in (0.0, 1.0):
            loss = plugins.load("stages.losses", name).build(known(student), known(student))
            own, other = (outputs(student, seed=1, scale=scale) for _ in range(2))
            total(loss(own, other, targets())).backward()
            assert all(level.grad is None or torch.isfinite(level.grad).all() for level in own.pyramid)

    def test_takes_images_without_objects(self, name: str) -> None:
        student, teacher = pair(name)
        empty = [type(one)(one.boxes[:0], one.labels[:0]) for one in targets()]
        terms = fresh(name, student, teacher)(outputs(student, seed=1), outputs(teacher, seed=2), empty)
        assert all(torch.isfinite(value) for value in terms.values())

    def test_a_saved_loss_continues_bit_for_bit(self, name: str) -> None:
        """Draws and running means are part of what is saved."""
        student, teacher = pair(name)
        loss, resumed = fresh(name, student, teacher), fresh(name, student, teacher)
        loss(outputs(student, seed=3), outputs(teacher, seed=4), targets())
        resumed.load_state_dict(loss.state_dict())
        answers = outputs(student, seed=1), outputs(teacher, seed=2), targets()
        expected, found = loss(*answers), resumed(*answers)
        assert all(torch.equal(found[term], value) for term, value in expected.items())

    def test_keeps_its_promises(self, name: str) -> None:
        for promise in plugins.load("stages.losses", name).INVARIANT_TO:
            before, after = CHANGES[promise](name)
            for term, value in before.items():
                torch.testing.assert_close(after[term], value, rtol=1e-4, atol=1e-6, msg=f"{promise}: {term}")
