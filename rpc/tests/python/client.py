"""A client of the wire format in docs/wire.md, written from that page alone, standard library only.

    connection = Connection("127.0.0.1", 7788)
    reply = connection.call("Echo", "Say", encode([(1, b"hello")]), timeout=1.0)
    for item in connection.stream("Echo", "Count", encode([])):
        ...

One thread. Messages are lists of (field number, value); a value is an int (a varint field) or bytes.
Run as a program, `client.py PORT`, it talks to the provider of rpc/tests/python_client.rs.
"""

import collections
import socket
import sys
import time

# Kinds of frames: a caller's, and a server's.
CANCEL, CREDIT, PING, PONG, GOODBYE = 1, 2, 3, 4, 5
REPLY, ITEM, SERVER_PONG, SERVER_PING, GOAWAY = 0, 1, 2, 3, 4

OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 3, 4, 5
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 12, 13, 14
CODES = {0, 1, 3, 4, 5, 6, 7, 8, 12, 13, 14, 16}

MAX_HEADER_BYTES = 64 << 10
MAX_BODY_BYTES = 64 << 20
ITEM_COST = 16


# ---- protobuf


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def take_varint(data, at):
    """The varint at data[at:], and where it ends. IndexError: it is not whole."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a varint of more than ten bytes")


def encode(fields):
    """A message. Defaults (0, no bytes) are left out, as they may be."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            if value:
                out += varint(number << 3) + varint(value)
        elif value:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return bytes(out)


def decode(data):
    """The fields of a message: {number: [values]}."""
    fields = collections.defaultdict(list)
    at = 0
    while at < len(data):
        tag, at = take_varint(data, at)
        wire_type = tag & 7
        if wire_type == 0:
            value, at = take_varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire_type)
            if wire_type == 2:
                size, at = take_varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError("a broken message")
            value = bytes(data[at : at + size])
            at += size
        fields[tag >> 3].append(value)
    return fields


def last(fields, number, default):
    return fields[number][-1] if fields[number] else default


# ---- frames

Reply = collections.namedtuple("Reply", "request_id code error_text refused kind metadata body")


class RpcError(Exception):
    """A call failed. `refused`: it had and will have no effect, so it may be sent again."""

    def __init__(self, code, text, refused=False):
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.refused = code, text, refused


def request(service, method, args, request_id=0, timeout_ms=0, credit=0, metadata=(), traceparent=""):
    """The frame of a call. Without a request_id it is a legacy caller's."""
    entries = [(8, encode([(1, key.encode()), (2, value)])) for key, value in metadata]
    header = encode(
        [(1, service.encode()), (2, method.encode()), (3, len(args)), (4, request_id)]
        + [(5, timeout_ms), (7, credit)]
        + entries
        + [(9, traceparent.encode())]
    )
    return varint(len(header)) + header + args


def control(kind, request_id, credit=0):
    header = encode([(4, request_id), (6, kind), (7, credit)])
    return varint(len(header)) + header


def take_reply(data):
    """The frame at the front of `data`, and its bytes; None while it is not whole."""
    try:
        header_size, start = take_varint(data, 0)
    except IndexError:
        return None
    if header_size > MAX_HEADER_BYTES:
        raise RpcError(UNAVAILABLE, f"a header of {header_size} bytes")
    if len(data) < start + header_size:
        return None
    header = decode(data[start : start + header_size])
    body_size = last(header, 4, 0)
    if body_size > MAX_BODY_BYTES:
        raise RpcError(UNAVAILABLE, f"a body of {body_size} bytes")
    end = start + header_size + body_size
    if len(data) < end:
        return None
    metadata = {}
    for entry in map(decode, header[7]):
        metadata[last(entry, 1, b"").decode()] = last(entry, 2, b"")
    code = last(header, 2, OK)
    reply = Reply(
        request_id=last(header, 1, 0),
        code=code if code in CODES else INTERNAL,
        error_text=last(header, 3, b"").decode(),
        refused=bool(last(header, 5, 0)),
        kind=last(header, 6, REPLY),
        metadata=metadata,
        body=bytes(data[end - body_size : end]),
    )
    return reply, end


# ---- connections


class Connection:
    """One connection that speaks in frames. Any number of calls may be under way on it."""

    def __init__(self, host, port, connect_timeout=3.0):
        self.socket = socket.create_connection((host, port), connect_timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = bytearray()
        self.arrived = {}  # request_id of each call under way: its frames that nobody took yet
        self.next_id = 1
        self.pongs = set()
        self.pinged = 0  # how often the server has asked
        self.going_away = False  # the server wants no more calls here

    def close(self):
        self.socket.close()

    # -- calls

    def begin(self, service, method, args, timeout=None, **more):
        """Sends a call and returns its request_id. `timeout` in seconds."""
        if self.going_away:
            raise RpcError(UNAVAILABLE, "the server asked for new calls to go elsewhere", True)
        request_id = self.next_id
        self.next_id += 1
        timeout_ms = 0 if timeout is None else max(1, int(timeout * 1000))
        self._send(request(service, method, args, request_id, timeout_ms, **more))
        self.arrived[request_id] = collections.deque()
        return request_id

    def finish(self, request_id, until=None):
        """Waits for the reply of a call. RpcError if it failed."""
        while not self.arrived[request_id] and self._receive(until):
            pass
        # The caller's own clock counts: what comes too late, as from a handler that was told so, is late.
        if until is not None and time.monotonic() >= until:
            self.cancel(request_id)
            raise RpcError(DEADLINE_EXCEEDED, "no reply before the deadline")
        reply = self.arrived[request_id].popleft()
        if reply.kind == REPLY:
            del self.arrived[request_id]
            if reply.code != OK:
                raise RpcError(reply.code, reply.error_text, reply.refused)
        return reply

    def call(self, service, method, args, timeout=None, **more):
        """Calls a method and waits for its reply."""
        until = None if timeout is None else time.monotonic() + timeout
        return self.finish(self.begin(service, method, args, timeout, **more), until)

    def cancel(self, request_id):
        """Gives a call up. What still arrives for it is skipped."""
        self.arrived.pop(request_id, None)
        self._send(control(CANCEL, request_id))

    def stream(self, service, method, args, credit=256 << 10, **more):
        """The items of a streaming method; credit goes back as they are taken."""
        request_id = self.begin(service, method, args, credit=credit, **more)
        taken = 0
        try:
            while True:
                item = self.finish(request_id)
                if item.kind == REPLY:
                    return
                yield item.body
                taken += ITEM_COST + len(item.body)
                if taken * 2 >= credit:
                    self._send(control(CREDIT, request_id, taken))
                    taken = 0
        finally:
            if request_id in self.arrived:
                self.cancel(request_id)

    # -- the connection itself

    def ping(self, timeout=10.0):
        """Asks whether the server is there. Returns after how many seconds it answered."""
        number = (1 << 48) + self.next_id
        self.next_id += 1
        begun = time.monotonic()
        self._send(control(PING, number))
        while number not in self.pongs:
            if not self._receive(begun + timeout):
                raise RpcError(UNAVAILABLE, "no answer to a ping")
        self.pongs.remove(number)
        return time.monotonic() - begun

    def goodbye(self):
        """Says that no more calls will be begun here."""
        self.going_away = True
        self._send(control(GOODBYE, 1))

    def wait_for(self, condition, timeout=30.0):
        """Reads until `condition()`, answering the server's pings."""
        until = time.monotonic() + timeout
        while not condition():
            if not self._receive(until):
                raise TimeoutError("it did not come")

    def wait_until_closed(self):
        """Reads until the server closes, skipping what is about no call."""
        try:
            while True:
                self._receive(time.monotonic() + 30.0)
        except RpcError as error:
            if error.text != "the server closed the connection":
                raise

    def _send(self, frame):
        self.socket.settimeout(30.0)
        self.socket.sendall(frame)

    def _receive(self, until):
        """Reads once and sorts what has come. False: `until` is over (monotonic; None: no end)."""
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return False
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(64 << 10)
        except TimeoutError:
            return False
        if not data:
            raise RpcError(UNAVAILABLE, "the server closed the connection")
        self.input += data
        while (taken := take_reply(self.input)) is not None:
            reply, size = taken
            del self.input[:size]
            self._sort(reply)
        return True

    def _sort(self, frame):
        if frame.kind == SERVER_PING:
            self.pinged += 1
            self._send(control(PONG, frame.request_id))
        elif frame.kind == SERVER_PONG:
            self.pongs.add(frame.request_id)
        elif frame.kind == GOAWAY:
            if frame.code != OK:
                raise RpcError(frame.code, frame.error_text, True)
            self.going_away = True
        elif frame.kind in (REPLY, ITEM) and frame.request_id in self.arrived:
            self.arrived[frame.request_id].append(frame)
        # Anything else is of an unknown kind, or about a call that was given up.


class LegacyConnection:
    """One connection that speaks as the C++ original: one call at a time, bare replies."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), 3.0)
        self.socket.settimeout(30.0)

    def call(self, service, method, args, is_whole):
        """The reply's fields. Its end is not in the bytes: `is_whole(fields)` says when it is there."""
        self.socket.sendall(request(service, method, args))
        data = b""
        while True:
            more = self.socket.recv(64 << 10)
            if not more:
                raise RpcError(UNAVAILABLE, "the server closed the connection: the call failed")
            data += more
            try:
                fields = decode(data)
            except (IndexError, ValueError):
                continue
            if is_whole(fields):
                return fields

    def close(self):
        self.socket.close()


# ---- a conversation with rpc/tests/python_client.rs


def text(value):
    return encode([(1, value.encode())])


def text_of(body):
    return last(decode(body), 1, b"").decode()


def expect_error(code, refused, action):
    try:
        action()
    except RpcError as error:
        assert (error.code, error.refused) == (code, refused), (error, error.refused)
        return error.text
    raise AssertionError(f"it did not fail with {code}")


def unary(port):
    echo = Connection("127.0.0.1", port)
    assert text_of(echo.call("Echo", "Say", text("hello"), timeout=30.0).body) == "hello"
    assert echo.call("Echo", "Say", b"").body == b"", "a reply of no bytes"
    large = "x" * 300_000
    assert text_of(echo.call("Echo", "Say", text(large)).body) == large
    first, second = (echo.begin("Echo", "Say", text(word)) for word in ("first", "second"))
    assert text_of(echo.finish(second).body) == "second", "replies are told apart by their ids"
    assert text_of(echo.finish(first).body) == "first"
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    metadata = [("tenant", b"blue"), ("tenant", b"green")]
    reply = echo.call("Echo", "Metadata", b"", metadata=metadata, traceparent=traceparent)
    assert text_of(reply.body) == traceparent
    assert reply.metadata == {"tenant": b"green"}, reply.metadata
    echo.close()


def errors(port):
    echo = Connection("127.0.0.1", port)
    said = expect_error(NOT_FOUND, False, lambda: echo.call("Echo", "Fail", text("no such thing")))
    assert said == "no such thing"
    said = expect_error(UNIMPLEMENTED, True, lambda: echo.call("Echo", "Fly", b""))
    assert "Say" in said, said
    expect_error(UNIMPLEMENTED, True, lambda: echo.call("Nobody", "Say", b""))
    expect_error(INVALID_ARGUMENT, True, lambda: echo.call("Echo", "Say", b"\x0a\x05a"))
    # The server's word on a deadline needs a server that is too late; the caller's own clock does not.
    expect_error(DEADLINE_EXCEEDED, False, lambda: echo.call("Echo", "Hold", text("deadline"), timeout=0.05))
    assert text_of(echo.call("Echo", "Say", text("still there")).body) == "still there"
    echo.close()


def streams(port):
    echo = Connection("127.0.0.1", port)
    items = [text_of(item) for item in echo.stream("Echo", "Count", text("500"))]
    assert items == [str(number) for number in range(500)], items
    # Credit for a few items at a time, each returned as it is taken.
    items = [text_of(item) for item in echo.stream("Echo", "Count", text("200"), credit=64)]
    assert items == [str(number) for number in range(200)], items
    # Without more credit the server stops: 64 are used up by items of 19 bytes, the fourth overdraws.
    slow = echo.begin("Echo", "Count", text("10"), credit=64)
    echo.wait_for(lambda: len(echo.arrived[slow]) == 4)
    echo.ping()
    assert len(echo.arrived[slow]) == 4, "no item came without credit"
    assert text_of(echo.call("Echo", "Say", text("beside it")).body) == "beside it"
    echo._send(control(CREDIT, slow, 1000))
    echo.wait_for(lambda: len(echo.arrived[slow]) == 11)
    # One that fails after its items, and one that is given up.
    failing = echo.stream("Echo", "CountAndFail", text("3"))
    assert [text_of(next(failing)) for _ in range(3)] == ["0", "1", "2"]
    assert expect_error(NOT_FOUND, False, lambda: next(failing)) == "no more"
    endless = echo.stream("Echo", "Count", text("1000000000"), credit=100)
    assert text_of(next(endless)) == "0"
    endless.close()
    echo.ping()
    echo.close()


def cancel(port):
    echo = Connection("127.0.0.1", port)
    held = echo.begin("Echo", "Hold", text("cancel"))
    echo.cancel(held)
    assert text_of(echo.call("Echo", "Say", text("after")).body) == "after"
    echo.close()


def pings(port):
    echo = Connection("127.0.0.1", port)
    assert echo.ping() >= 0.0
    echo.wait_for(lambda: echo.pinged > 0)
    echo.ping()
    echo.goodbye()
    echo.wait_until_closed()
    expect_error(UNAVAILABLE, True, lambda: echo.call("Echo", "Say", b""))
    echo.close()


def legacy(port):
    friends = LegacyConnection("127.0.0.1", port)
    for user in ("1000", "1001"):
        reply = friends.call("Echo", "Say", text(user), lambda fields: 1 in fields)
        assert last(reply, 1, b"").decode() == user
    # A message of no bytes comes as one field that nobody knows.
    reply = friends.call("Echo", "Say", b"", lambda fields: bool(fields))
    assert reply == {19000: [0]}, reply
    expect_error(UNAVAILABLE, False, lambda: friends.call("Echo", "Fail", text("no"), lambda fields: True))
    friends.close()


def goaway(port):
    """Last: the provider drains, and this connection is what it waits for."""
    echo = Connection("127.0.0.1", port)
    held = echo.begin("Echo", "Hold", text("drain"))
    echo.call("Echo", "Drain", b"")
    echo.wait_for(lambda: echo.going_away)
    expect_error(UNAVAILABLE, True, lambda: echo.call("Echo", "Say", b""))
    echo.goodbye()
    echo._send(control(CANCEL, held))
    assert expect_error(CANCELLED, False, lambda: echo.finish(held)) == "given up"
    echo.wait_until_closed()
    echo.close()


def main():
    port = int(sys.argv[1])
    for part in (unary, errors, streams, cancel, pings, legacy, goaway):
        part(port)
        print(f"{part.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
