// Pages through files that are on several servers, as an application does.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const { BASE_URL, SDK_NODE } = process.env;
const { OpenAI } = createRequire(path.resolve(SDK_NODE, "package.json"))("openai");
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "sk-test", timeout: 20_000, maxRetries: 0 });
const files = [];
for await (const file of client.files.list({ limit: 10 })) files.push(file);
const times = files.map((file) => file.created_at);
assert.deepEqual(times, times.toSorted((a, b) => b - a));
assert.equal(new Set(files.map((file) => file.id)).size, files.length);
for (const file of files.filter((_, n) => n % 10 === 0)) {
  assert.equal((await client.files.retrieve(file.id)).id, file.id);
}
console.log(`${files.length} files, in order, and each is found`);
