"""60 chats, 4 at a time, no retries by the SDK, while the harness kills a server: none may fail. BASE_URL ends in /v1."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="sk-test", timeout=20, max_retries=0)


def chat(n):
    word = f"word-{n}"
    reply = client.chat.completions.create(model="demo-chat", messages=[{"role": "user", "content": word}])
    assert word in reply.choices[0].message.content, reply


ok = failed = 0
with ThreadPoolExecutor(4) as threads:
    for chatted in as_completed([threads.submit(chat, n) for n in range(60)]):
        e = chatted.exception()
        if e is None:
            ok += 1
        else:
            failed += 1
            print(f"failed: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        if ok + failed == 10:
            print("started", flush=True)

print(f"done {ok + failed} ok {ok} failed {failed}", flush=True)
sys.exit(1 if failed else 0)
