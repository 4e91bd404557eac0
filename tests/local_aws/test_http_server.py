"""Clients that are slow with their headers hold up nobody."""

import http.client
import socket
import threading
from contextlib import closing

import pytest

from async_inference.local_aws.http_server import HttpServer


@pytest.fixture
def server():
    def hello(environ, start_response):
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    server = HttpServer(0, hello, headers_within_s=1.0)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
    yield server
    server.stop()


def connected(server) -> socket.socket:
    return socket.create_connection(server.bind_addr, timeout=5)


def asked(server) -> bytes:
    with closing(http.client.HTTPConnection(*server.bind_addr, timeout=5)) as connection:
        connection.request("POST", "/", b"a body")
        return connection.getresponse().read()


@pytest.mark.parametrize("begun", [b"", b"GE", b"POST / HTTP/1.1\r\nHost: local"])
def test_three_hundred_half_requests_hold_up_no_other_client(server, begun):
    halves = [connected(server) for _ in range(300)]
    for half in halves:
        half.sendall(begun)

    assert asked(server) == b"hello"
    for half in halves:
        half.close()


def test_headers_have_a_deadline(server):
    with connected(server) as half:
        half.sendall(b"GET / HT")

        assert half.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_request_may_come_byte_by_byte_and_another_after_it(server):
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab"
    with connected(server) as slow, slow.makefile("rb") as answers:
        for _ in range(2):
            for byte in request:
                slow.sendall(bytes([byte]))
            assert b"200 OK" in answers.readline()
            while answers.readline().strip():
                pass  # the other headers
            assert answers.read(5) == b"hello"


def test_a_half_request_behind_a_whole_one_takes_no_worker(server):
    whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    behind = [connected(server) for _ in range(40)]
    for each in behind:
        each.sendall(whole + b"GET / HT")
    for each in behind:
        assert b"200 OK" in each.recv(1000)

    assert asked(server) == b"hello"
    for each in behind:
        each.close()
