// Asks for models as the SDK does. One line per check, stops at the first failure.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const { BASE_URL, SDK_NODE } = process.env;
const { OpenAI } = createRequire(path.resolve(SDK_NODE, "package.json"))("openai");
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "sk-test", timeout: 20_000, maxRetries: 0 });
const listed = [];
for await (const model of client.models.list()) listed.push(`${model.id} ${model.owned_by} ${model.created}`);
assert.deepEqual(listed, ["llama3 box 7", "org/big box 7"]);
console.log("ok list");
assert.equal((await client.models.retrieve("org/big")).id, "org/big");
console.log("ok retrieve");
await assert.rejects(client.models.retrieve("org/none"), { status: 404, code: "model_not_found" });
console.log("ok unknown");
