from deploy.errors import first_line, in_one_line


def test_the_first_line_that_says_something() -> None:
    assert first_line(ValueError("\n  broken \nat byte 3")) == "broken"
    assert first_line(ValueError(" \n")) == "ValueError"


def test_a_whole_message_in_one_line_and_not_too_long() -> None:
    assert in_one_line(OSError("401 Client Error\n\n  no such  repository")) == "401 Client Error no such repository"
    assert in_one_line(OSError()) == "OSError"
    assert len(in_one_line(ValueError("long " * 100))) <= 200
