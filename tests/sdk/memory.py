"""Has conversations on a route with a memory; the server repeats what was last said, behind `a:`. Stops at the first failure."""

import os
import sys

from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="sk-test", timeout=20, max_retries=0)


def said(words):
    return {"role": "user", "content": words}


def ask(session, *messages):
    raw = client.chat.completions.with_raw_response.create(
        model="m", messages=messages, extra_headers={"x-session-id": session}
    )
    return raw.headers["x-memory"], raw.parse().choices[0].message


def turns():
    added, message = ask("turns", said("1"))
    assert (added, message.content) == ("0", "a:1"), (added, message)
    added, message = ask("turns", {"role": "system", "content": "s"}, said("2"))
    assert (added, message.content) == ("2", "a:2"), (added, message)


def streamed():
    headers = {"x-session-id": "streamed"}
    stream = client.chat.completions.create(model="m", messages=[said("1")], stream=True, extra_headers=headers)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "a:1", text
    # the SDK has closed its connection behind the last event
    assert ask("streamed", said("2"))[0] == "2"


def own_history():
    _, answer = ask("own", said("1"))
    added, answer = ask("own", said("1"), answer, said("2"))
    assert (added, answer.content) == ("0", "a:2"), (added, answer)
    assert ask("own", said("3"))[0] == "4"


for check in (turns, streamed, own_history):
    try:
        check()
    except Exception as e:
        sys.exit(f"failed {check.__name__}: {type(e).__name__}: {e}")
    print(f"ok {check.__name__}", flush=True)
