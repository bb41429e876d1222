"""Bytes as geartrain saves them: "geartrain", the format, the CRC-32 of the rest, the rest."""

import zlib

MAGIC = b"geartrain"


def resealed(blob, old, new):
    """The same blob with `new` in place of `old`, of the same length, and a right checksum."""
    assert blob.startswith(MAGIC) and len(old) == len(new)
    head, payload = len(MAGIC) + 1, blob[len(MAGIC) + 5 :].replace(old, new)
    return blob[:head] + zlib.crc32(payload).to_bytes(4, "little") + payload


def in_append_only_file(server, old, new):
    """Put `new` in place of `old` in all that a stopped server wrote of its own."""
    (path,) = (server.folder / "appendonlydir").glob("*.incr.aof")
    data = path.read_bytes()
    at = data.find(MAGIC)
    while at >= 0:
        line = data.rindex(b"$", 0, at)
        length = int(data[line + 1 : at].strip())
        blob = data[at : at + length]
        data = data[:at] + resealed(blob, old, new) + data[at + length :]
        at = data.find(MAGIC, at + length)
    path.write_bytes(data)
