"""Reads JSON objects and forms the way Python's own parsers do, for the tests that compare.

A question is a line `READER LENGTH` and so many bytes; the answer is one line of JSON: a list of what
stands at the top level, or an object that says why it cannot be read.
"""

import email.message
import email.parser
import email.policy
import json
import sys


class Pairs(list):
    pass


def constant(name):
    raise ValueError(f"{name} is not JSON")


def shown(text):
    """Texts that cannot be written as UTF-8 have no form that both sides know."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def read_json(data):
    value = json.loads(data, object_pairs_hook=Pairs, parse_constant=constant)
    if not isinstance(value, Pairs):
        return {"error": "no object"}
    return [[shown(name), shown(value) if isinstance(value, str) else None] for name, value in value]


def read_form(data):
    kind, _, body = data.partition(b"\n")
    text = b"Content-Type: " + kind + b"\r\n\r\n" + body
    form = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(text)
    if not form.is_multipart():
        return {"error": "no form"}
    parts = []
    for part in form.get_payload():
        # bytes beyond ASCII come as halves of surrogates
        head = email.message.Message()
        for name, value in part.raw_items():
            head[name] = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        name = head.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        parts.append(
            {
                "name": name if isinstance(name, str) else None,
                "data": None if payload is None else payload.hex(),
            }
        )
    return parts


READERS = {"json": read_json, "form": read_form}

while line := sys.stdin.buffer.readline():
    reader, length = line.decode().split()
    data = sys.stdin.buffer.read(int(length))
    try:
        answer = READERS[reader](data)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:200]}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
