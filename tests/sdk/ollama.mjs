// Talks through Trunkline to an Ollama with an API of its own. One line per check, stops at the first failure.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const { BASE_URL, SDK_NODE } = process.env;
const { OpenAI } = createRequire(path.resolve(SDK_NODE, "package.json"))("openai");
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "sk-test", timeout: 20_000, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } }];

async function chat() {
  const reply = await client.chat.completions.create({ model: "llama3", messages, options: { num_ctx: 8192 } });
  assert.deepEqual([reply.model, reply.usage.total_tokens], ["llama3", 46]);
}

async function stream() {
  let text = "";
  const request = { model: "llama3", messages, stream: true, stream_options: { include_usage: true } };
  let usage;
  for await (const chunk of await client.chat.completions.create(request)) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.match(text, /^Why did the OpenTelemetry agent/);
  assert.equal(usage.total_tokens, 67);
}

async function toolCalls() {
  const choice = (await client.chat.completions.stream({ model: "llama3", messages, tools }).finalChatCompletion())
    .choices[0];
  assert.equal(choice.finish_reason, "tool_calls");
  assert.equal(choice.message.tool_calls[0].function.arguments, '{"city":"Tokyo"}');
}

async function embeddings() {
  const reply = await client.embeddings.create({ model: "all-minilm", input: ["a", "b"] });
  assert.equal(reply.data[1].embedding.length, 10);
  assert.ok(Math.abs(reply.data[0].embedding[0] - 0.010071029) < 1e-7);
}

async function models() {
  const names = (await client.models.list()).data.map((model) => model.id);
  assert.deepEqual(names, ["deepseek-r1:latest", "llama3.2:latest"]);
}

async function notFound() {
  const asked = client.chat.completions.create({ model: "nonexistent-model-12345", messages });
  await assert.rejects(asked, { status: 404, code: "model_not_found", param: "model" });
}

for (const check of [chat, stream, toolCalls, embeddings, models, notFound]) {
  try {
    await check();
  } catch (error) {
    console.error(`FAILED ${check.name}: ${error}`);
    process.exit(1);
  }
  console.log(`ok ${check.name}`);
}
