"""Processes of a torchrun that meet in one store: threads here, each with an object of its own; tests/whole/test_hosts.py has hosts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from waiting import PATIENCE, join, until

from deploy.errors import ArtifactError, ConfigError
from pipeline.store import checkout, heartbeat, peers
from pipeline.store.keys import difference
from pipeline.store.peers import Peers

PARTS: dict[str, Any] = {"stage": "prepare", "version": 1, "config": {"root": "a"}, "identity": {}, "plugins": {}, "inputs": {}}


class Meeting:
    """Several processes; `all` has each of them do something at the same time."""

    def __init__(self, num: int, root: Path) -> None:
        self.root = root
        self.own = [Peers() for _ in range(num)]
        for rank, one in enumerate(self.own):
            one.rank, one.num = rank, num
            one._hosts = [f"process {other}" for other in range(num)]

    def all(self, do: Callable[[Peers], object], ranks: range | None = None) -> list[BaseException | None]:
        """What each of them raised."""
        raised: list[BaseException | None] = [None] * len(self.own)

        def one(rank: int) -> None:
            try:
                do(self.own[rank])
            except (ArtifactError, ConfigError) as error:
                raised[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks or range(len(self.own))]
        for thread in threads:
            thread.start()
        for thread in threads:
            join(thread, PATIENCE)
        return raised

    def agree(self, *different: int, instance: str = "prepare") -> list[BaseException | None]:
        def do(one: Peers) -> None:
            one.meet(self.root)
            one.agree(instance, {**PARTS, "config": {"root": "b" if one.rank in different else "a"}}, difference)

        return self.all(do)


@pytest.fixture
def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    torch = pytest.importorskip("torch.distributed")
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    server = torch.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(peers, "connected", lambda _: torch.TCPStore("127.0.0.1", port, is_master=False))
    monkeypatch.setattr(heartbeat, "connected", lambda _: torch.TCPStore("127.0.0.1", port, is_master=False))
    monkeypatch.setattr(peers, "POLL_SECONDS", 0.01)
    made = Meeting(3, tmp_path)
    yield made
    for one in made.own:
        one.leave("")
    del server


def test_alike_they_go_on(meeting: Meeting) -> None:
    assert meeting.agree() == [None, None, None]
    assert meeting.agree(instance="train_teacher") == [None, None, None]
    assert not list(meeting.root.glob(".store/.meeting*"))


def test_a_difference_is_the_same_line_in_all_of_them(meeting: Meeting) -> None:
    lines = {str(error) for error in meeting.agree(2)}
    assert len(lines) == 1
    (line,) = lines
    assert line.startswith("prepare: process 2 on ")
    assert "would do something else than process 0 on" in line
    assert "(root a -> b)" in line


def test_those_of_an_earlier_attempt_are_not_met(meeting: Meeting) -> None:
    """The store keeps their values; the next processes find one another all the same."""
    assert meeting.agree() == [None, None, None]
    for one in meeting.own:
        one.leave("killed")
    meeting.own = Meeting(3, meeting.root).own
    assert meeting.agree() == [None, None, None]


def test_an_error_of_one_ends_the_others_that_wait_for_it(meeting: Meeting) -> None:
    assert meeting.agree() == [None, None, None]
    meeting.own[1].leave("student: loss is nan")
    raised = meeting.all(lambda one: one.agree("distill", PARTS, difference), range(0, 3, 2))
    for error in (raised[0], raised[2]):
        assert isinstance(error, ArtifactError)
        assert "ended: student: loss is nan; start the same command again" in str(error)
    with pytest.raises(ArtifactError, match="loss is nan"):
        meeting.own[0].check()


def test_those_that_have_ended_as_they_should_are_not_waited_for(meeting: Meeting) -> None:
    assert meeting.agree() == [None, None, None]
    for one in meeting.own[1:]:
        one.leave("")
    meeting.own[0].check()
    assert meeting.all(lambda one: one.agree("export", PARTS, difference), range(1)) == [None, None, None]


def test_other_code_and_other_libraries_are_named(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    own, found = checkout.sources(), checkout.facts()
    given = iter([{**found, "torch": "1.0"}, found, found])
    monkeypatch.setattr(peers, "facts", lambda: next(given))
    (line,) = {str(error) for error in meeting.agree()}
    assert "has torch" in line
    assert "1.0" in line
    assert line.endswith("install the same version on all hosts")
    assert checkout.different(own, {**own, "stages/train.py": "0"}) == "stages/train.py"
    assert checkout.different(own, {name: hash_ for name, hash_ in own.items() if name != "deploy/errors.py"}) == "deploy/errors.py"


def test_one_that_is_silent_is_named_once_and_when_it_is_heard_again(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(peers, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(heartbeat, "say", said.append)
    assert meeting.agree() == [None, None, None]
    beating = meeting.own[2]._heartbeat
    assert beating is not None
    exchange, free = beating._exchange, threading.Event()

    def held() -> None:
        free.wait(PATIENCE)
        exchange()

    monkeypatch.setattr(beating, "_exchange", held)
    until(lambda: said, "the silent one to be named")
    until(lambda: meeting.own[0].explain(RuntimeError("gloo: Connection closed by peer")) is not None, "it to be missed")
    free.set()
    until(lambda: len(said) >= 2, "it to be heard again")
    assert "process 2 on" in said[0]
    assert "has not been heard from for" in said[0]
    assert "is heard again after" in said[1]


def test_only_errors_of_exchanges_are_explained(meeting: Meeting) -> None:
    assert meeting.agree() == [None, None, None]
    assert meeting.own[0].explain(RuntimeError("shapes differ")) is None
    assert meeting.own[0].explain(ConfigError("gloo")) is None
    meeting.own[1].leave("student: loss is nan")
    known = meeting.own[0].explain(RuntimeError("[gloo] Connection closed by peer"))
    assert isinstance(known, ArtifactError)
    assert "the training cannot go on: process 1 on" in str(known)
    assert "loss is nan" in str(known)
