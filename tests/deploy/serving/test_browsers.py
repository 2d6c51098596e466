"""What a page of another site can make a browser send here."""

import pytest
from starlette.datastructures import Headers

from deploy.serving.options import ServeConfig
from deploy.serving.refusals import Forbidden

front = pytest.importorskip("deploy.serving.front")


def check(config: ServeConfig, *, post: bool = False, **headers: str) -> None:
    front.check_browser(Headers(headers), front.hosts(config), post=post)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_a_server_on_loopback_has_its_own_names(host: str) -> None:
    check(ServeConfig(), host=host)


EVIL = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::2]:8000")


@pytest.mark.parametrize("host", EVIL)
def test_a_name_that_was_made_to_lead_here_is_refused(host: str) -> None:
    with pytest.raises(Forbidden, match=r"allowed_hosts"):
        check(ServeConfig(), host=host)


def test_elsewhere_names_are_checked_once_they_are_given() -> None:
    check(ServeConfig(host="0.0.0.0"), host="any.example")
    given = ServeConfig(host="0.0.0.0", allowed_hosts=("Detector.example",))
    check(given, host="detector.example:8000")
    with pytest.raises(Forbidden):
        check(given, host="localhost")


def test_a_page_posts_only_to_its_own_server() -> None:
    own = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    check(ServeConfig(), post=True, **own)
    check(ServeConfig(), post=True, host="localhost:8000")  # no browser
    for origin in ("http://evil.example", "null", "http://localhost:9000", "https://localhost:8000.evil.example"):
        check(ServeConfig(), post=False, **own | {"origin": origin})
        with pytest.raises(Forbidden, match="may not post"):
            check(ServeConfig(), post=True, **own | {"origin": origin})
