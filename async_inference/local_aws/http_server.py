"""An HTTP server whose threads never wait for a request's headers.

cheroot hands each connection to one of its threads immediately, and that thread reads. Clients that
send half a request would then block all threads, and with them all other clients.
"""

import select
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from wsgiref.types import WSGIApplication

from cheroot import wsgi
from cheroot.server import HTTPConnection

Response = tuple[str, list[tuple[str, str]], list[bytes]]
"""An HTTP response: status line, headers, parts of the body."""
THREADS = 16
MAX_HEADER_BYTES = 64 * 1024
"""The largest header; requests of AWS clients are far smaller."""
HEADERS_WITHIN_S = 10.0
LOOKED_EVERY_S = 0.05
"""Seconds between two looks at headers that have begun: a selector would always report these."""
HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)
"""The event of a connection whose client sends no more; macOS lacks the constant."""
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Arriving:
    """A connection whose next request has not arrived.

    Args:
        connection: cheroot's.
        since_s: monotonic time at which the wait for its headers began.
        begun: whether some of them have arrived.
    """

    connection: HTTPConnection
    since_s: float
    begun: bool = False


class HttpServer(wsgi.Server):
    """A WSGI server on a loopback port.

    Args:
        port: 0 for a free one.
        application: the WSGI application.
        headers_within_s: a connection that takes longer is closed.
    """

    def __init__(
        self, port: int, application: WSGIApplication, headers_within_s: float = HEADERS_WITHIN_S
    ) -> None:
        super().__init__(("127.0.0.1", port), application, numthreads=THREADS)
        self.max_request_header_size = MAX_HEADER_BYTES
        self.request_queue_size = 1024
        self._headers_within_s = headers_within_s
        self._arriving: dict[int, Arriving] = {}
        self._arrivals = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._usher = threading.Thread(target=self._admit, daemon=True)

    def prepare(self) -> None:
        """Listen."""
        super().prepare()
        self._usher.start()

    def stop(self) -> None:
        """Close all connections and end every thread."""
        self._ending.set()
        if self._usher.is_alive():
            self._usher.join()
        super().stop()
        with self._lock:
            for each in self._arriving.values():
                each.connection.close()
            self._arriving.clear()
            self._arrivals.close()

    def process_conn(self, conn: HTTPConnection) -> None:
        """Give a connection to a worker, now or once its headers are complete."""
        if _complete(conn):
            super().process_conn(conn)
            return
        with self._lock:
            number = conn.socket.fileno()
            if number < 0 or self._ending.is_set():
                conn.close()
                return
            self._arriving[number] = Arriving(conn, time.monotonic())
            self._arrivals.register(number, selectors.EVENT_READ)

    def _admit(self) -> None:
        while not self._ending.is_set():
            for key, _ in self._arrivals.select(LOOKED_EVERY_S):
                with self._lock:
                    self._arrivals.unregister(key.fd)
                    self._arriving[key.fd].begun = True
            now_s = time.monotonic()
            with self._lock:
                arriving = list(self._arriving.items())
            for number, each in arriving:
                if each.begun and _complete(each.connection):
                    self._forget(number)
                    super().process_conn(each.connection)
                elif now_s - each.since_s > self._headers_within_s:
                    self._forget(number)
                    with suppress(OSError):
                        each.connection.socket.send(TIMED_OUT, socket.MSG_DONTWAIT)
                    each.connection.close()

    def _forget(self, number: int) -> None:
        with self._lock:
            if not self._arriving.pop(number).begun:
                self._arrivals.unregister(number)


def _complete(connection: HTTPConnection) -> bool:
    """Whether a worker need not wait: the headers are complete, too long, or will never be."""
    reader, plain = connection.rfile, connection.socket
    if plain.fileno() < 0:
        return True  # the worker finds out
    poll = select.poll()
    poll.register(plain, select.POLLIN | HUNG_UP)
    events = poll.poll(0)
    # What came with the request before.
    there = bytes(reader._read_buf[reader._read_pos :])  # has_data looks there too
    for _, event in events:
        if event & ~select.POLLIN:
            return True  # the client sends no more: the worker reads the rest, and closes
        try:
            # Never before the poll: a Python socket with a timeout waits, whatever the flag says.
            peeked = plain.recv(MAX_HEADER_BYTES + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True
        if not peeked:
            return True
        there += peeked
    return b"\r\n\r\n" in there or b"\n\n" in there or len(there) > MAX_HEADER_BYTES
