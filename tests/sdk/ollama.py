"""Talks through Trunkline to an Ollama with an API of its own. One line per check, stops at the first failure."""

import os
import sys

import openai
from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="sk-test", timeout=20, max_retries=0)
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


def chat():
    reply = client.chat.completions.create(model="llama3", messages=HELLO, extra_body={"options": {"num_ctx": 8192}})
    assert "22" in reply.choices[0].message.content, reply
    assert (reply.model, reply.usage.total_tokens) == ("llama3", 46), reply


def stream():
    text, usages, reasons = "", [], []
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(model="llama3", messages=HELLO, stream=True, stream_options=options):
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text.startswith("Why did the OpenTelemetry agent"), text
    assert reasons == ["stop"] and [u.total_tokens for u in usages] == [67], (reasons, usages)


def tools():
    with client.chat.completions.stream(model="llama3", messages=HELLO, tools=TOOLS) as events:
        for _ in events:
            pass
        choice = events.get_final_completion().choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls", choice
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Tokyo"}'), call
    answer = [{"role": "tool", "tool_call_id": call.id, "content": "11 degrees"}]
    message = choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
    client.chat.completions.create(model="llama3", messages=HELLO + [message] + answer)


def embeddings():
    # the SDK asks for base64 unless it is told otherwise
    default = client.embeddings.create(model="all-minilm", input=["a", "b"]).data[0].embedding
    floats = client.embeddings.create(model="all-minilm", input=["a", "b"], encoding_format="float").data[0].embedding
    assert len(default) == len(floats) == 10, (default, floats)
    assert all(abs(a - b) < 1e-7 for a, b in zip(default, floats)), (default, floats)


def models():
    names = [model.id for model in client.models.list()]
    assert names == ["deepseek-r1:latest", "llama3.2:latest"], names


def not_found():
    try:
        client.chat.completions.create(model="nonexistent-model-12345", messages=HELLO)
    except openai.NotFoundError as e:
        assert (e.code, e.param) == ("model_not_found", "model"), e
        return
    raise AssertionError("it answered without an error")


for check in (chat, stream, tools, embeddings, models, not_found):
    try:
        check()
    except Exception as e:
        print(f"FAILED {check.__name__}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        sys.exit(1)
    print(f"ok {check.__name__}", flush=True)
