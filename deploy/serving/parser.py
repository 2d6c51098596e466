"""httptools' parser, which takes the body of a request that offers another protocol for that protocol's."""

from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser


class Parser(HttpRequestParser):
    """Ignores such an offer, as servers may: Java's client makes it with each request at first, and `curl --http2` does.

    The connection is told of the request once more, without the header `upgrade`; it is to take no notice while `has_offer` is true.
    """

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._connection = connection
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    @property
    def has_offer(self) -> bool:
        """Whether the request's head offers another protocol; CONNECT demands one."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: Any) -> None:
        """Parse a piece; raises what httptools raises."""
        try:
            super().feed_data(data)
        except HttpParserUpgrade as error:
            if not self.has_offer:
                raise
            headers = [b"%s: %s\r\n" % header for header in self._connection.headers if header[0] != b"upgrade"]
            first = b"%s %s HTTP/%s\r\n" % (self.get_method(), self._connection.url, self.get_http_version().encode())
            self._connection.parser = Parser(self._connection)
            self._connection.parser.feed_data(b"".join([first, *headers, b"\r\n", data[error.args[0] :]]))
