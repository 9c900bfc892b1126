"""Pages through files that are on several servers, as an application does."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="sk-unused", max_retries=0)
files = list(client.files.list(limit=10))
times = [file.created_at for file in files]
assert times == sorted(times, reverse=True), times
assert len({file.id for file in files}) == len(files)
for file in files[::10]:
    assert client.files.retrieve(file.id).id == file.id
print(f"{len(files)} files, in order, and each is found")
