"""A bare RESP connection.

Client libraries hide what these tests look at: a simple string and a bulk string look alike, the
code of an error is cut off, and numbers of RESP3 change their type.
"""

import socket


class Simple(str):
    """A simple string (`+`)."""


class Error(str):
    """An error line, without the leading dash."""


class Wire:
    def __init__(self, port, protocol=2, timeout=60, password=None, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        if tls:
            self.socket = tls.wrap_socket(self.socket)
        self.reader = self.socket.makefile("rb")
        if password:
            self.call("AUTH", password)
        if protocol == 3:
            self.call("HELLO", "3")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def send(self, *words):
        encoded = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        parts = [b"*%d\r\n" % len(encoded)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
        self.socket.sendall(b"".join(parts))

    def call(self, *words):
        self.send(*words)
        return self.receive()

    def receive(self):
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the server closed the connection after {line!r}")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return Simple(rest.decode())
        if kind == b"-":
            return Error(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._bulk(int(rest))
        if kind in (b"*", b">", b"~"):
            return None if rest == b"-1" else [self.receive() for _ in range(int(rest))]
        if kind == b"%":
            return {self._key(): self.receive() for _ in range(int(rest))}
        if kind == b"_":
            return None
        if kind == b",":
            return float(rest)
        if kind == b"#":
            return rest == b"t"
        if kind == b"=":
            return self._bulk(int(rest))[4:]
        raise ValueError(f"not a RESP reply: {line!r}")

    def _bulk(self, size):
        if size < 0:
            return None
        data = self.reader.read(size + 2)
        if data[size:] != b"\r\n":
            raise ConnectionError("a bulk string of the wrong length")
        return data[:size]

    def _key(self):
        key = self.receive()
        return key.decode() if isinstance(key, bytes) else key
