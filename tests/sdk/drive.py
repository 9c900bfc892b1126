"""Drives a running Trunkline with openai-python; BASE_URL ends in /v1. One line per check, stops at the first failure."""

import os
import struct
import sys
import tempfile

import openai
from openai import OpenAI

BASE_URL = os.environ["BASE_URL"]
SPOKEN = "The quick brown fox jumps over the lazy dog. " * 10
HELLO = [{"role": "user", "content": "Hello"}]

client = OpenAI(base_url=BASE_URL, api_key="sk-test", timeout=20, max_retries=0)


def expect(what, want, got):
    if want != got:
        raise AssertionError(f"{what}: expected {want!r}, got {got!r}")


def chat():
    reply = client.chat.completions.create(model="demo-chat", messages=HELLO)
    assert "Hello" in reply.choices[0].message.content, reply
    expect("finish_reason", "stop", reply.choices[0].finish_reason)
    assert reply.usage.total_tokens > 0, reply.usage


def request_id():
    reply = client.chat.completions.create(model="demo-chat", messages=HELLO)
    assert reply._request_id, "no x-request-id"
    mine = {"x-request-id": "drive-py.1"}
    reply = client.chat.completions.create(model="demo-chat", messages=HELLO, extra_headers=mine)
    expect("a client's own request id", "drive-py.1", reply._request_id)


def streamed_chat():
    text, pieces, reasons, usages = "", 0, [], []
    stream = client.chat.completions.create(
        model="demo-chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        if chunk.usage:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            pieces += bool(choice.delta.content)
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert pieces > 1, f"{pieces} pieces"
    assert "Hello" in text, text
    expect("finish reasons", ["stop"], reasons)
    expect("usage chunks", 1, len(usages))
    assert usages[0].total_tokens > 0, usages


def speech(path):
    with client.audio.speech.with_streaming_response.create(
        model="demo-speech", voice="alloy", input=SPOKEN, response_format="wav"
    ) as reply:
        expect("content-type", "audio/wav", reply.headers["content-type"])
        assert reply.headers.get("x-request-id"), "no x-request-id"
        reply.stream_to_file(path)
    with open(path, "rb") as file:
        wav = file.read()
    assert len(wav) > 44, f"{len(wav)} bytes"
    riff, size, wave = struct.unpack("<4sI4s", wav[:12])
    expect("the head of the file", (b"RIFF", b"WAVE"), (riff, wave))
    expect("the length in the RIFF header", len(wav) - 8, size)


def transcription(path, response_format):
    with open(path, "rb") as file:
        reply = client.audio.transcriptions.create(
            model="demo-transcription", file=file, response_format=response_format
        )
    text = reply if response_format == "text" else reply.text
    # a stand-in says how much it heard: nothing was lost on the way
    assert f"received {os.path.getsize(path)} bytes" in text, text


def embeddings():
    default = client.embeddings.create(model="demo-embedding", input="Hello").data
    floats = client.embeddings.create(model="demo-embedding", input="Hello", encoding_format="float").data
    expect("numbers (base64)", 8, len(default[0].embedding))
    expect("numbers (float)", 8, len(floats[0].embedding))
    for a, b in zip(default[0].embedding, floats[0].embedding):
        assert abs(a - b) < 1e-6, f"base64 says {a}, float says {b}"


def models():
    names = [model.id for model in client.models.list()]
    for name in ("demo-chat", "demo-speech", "demo-transcription", "demo-embedding"):
        assert name in names, f"{name} is not in {names}"


def error(model, kind, code):
    try:
        client.chat.completions.create(model=model, messages=HELLO)
    except openai.APIStatusError as e:
        expect("class", kind.__name__, type(e).__name__)
        expect("code", code, e.code)
        assert e.request_id, "no x-request-id"
        return e
    raise AssertionError(f"{model} answered without an error")


def not_found():
    e = error("no-such-model", openai.NotFoundError, "model_not_found")
    expect("param", "model", e.param)
    expect("type", "invalid_request_error", e.type)
    expect("x-backend", "local", e.response.headers.get("x-backend"))


def unauthorized():
    e = error("err-401", openai.AuthenticationError, "invalid_api_key")
    assert e.response.headers.get("x-backend") not in (None, "local"), "the 401 is not the server's"


def rate_limited():
    e = error("err-429", openai.RateLimitError, "rate_limit_exceeded")
    for name, value in {
        "retry-after": "7",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
    }.items():
        expect(name, value, e.response.headers.get(name))
    assert e.response.headers.get("x-backend") not in (None, "local"), "the 429 is not the server's"


def main():
    with tempfile.TemporaryDirectory() as folder:
        wav = os.path.join(folder, "speech.wav")
        checks = {
            "chat": chat,
            "request id": request_id,
            "streamed chat": streamed_chat,
            "speech": lambda: speech(wav),
            "transcription json": lambda: transcription(wav, "json"),
            "transcription text": lambda: transcription(wav, "text"),
            "embeddings": embeddings,
            "models": models,
            "error 404": not_found,
            "error 401": unauthorized,
            "error 429": rate_limited,
        }
        for name, check in checks.items():
            try:
                check()
            except Exception as e:
                print(f"FAILED {name}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
                return 1
            print(f"ok {name}", flush=True)
    return 0


sys.exit(main())
