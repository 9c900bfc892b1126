"""Asks for models as the SDK does. One line per check, stops at the first failure."""

import os

import openai
from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="sk-test", timeout=20, max_retries=0)
listed = [(model.id, model.owned_by, model.created) for model in client.models.list()]
assert listed == [("llama3", "box", 7), ("org/big", "box", 7)], listed
print("ok list")
assert client.models.retrieve("org/big").id == "org/big"
print("ok retrieve")
try:
    client.models.retrieve("org/none")
    raise SystemExit("a model that is not there was found")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
print("ok unknown")
