// Drives a running Trunkline with npm openai; BASE_URL ends in /v1, SDK_NODE is the folder that holds node_modules.
// One line per check, stops at the first failure.

import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

const { BASE_URL, SDK_NODE } = process.env;
if (!BASE_URL || !SDK_NODE) throw new Error("BASE_URL and SDK_NODE must be set");
const { OpenAI } = createRequire(path.resolve(SDK_NODE, "package.json"))("openai");

const SPOKEN = "The quick brown fox jumps over the lazy dog. ".repeat(10);
const messages = [{ role: "user", content: "Hello" }];

const client = new OpenAI({ baseURL: BASE_URL, apiKey: "sk-test", timeout: 20_000, maxRetries: 0 });

function assert(condition, message) {
  if (!condition) throw new Error(message);
}

function expect(what, want, got) {
  const [a, b] = [want, got].map((value) => JSON.stringify(value));
  assert(a === b, `${what}: expected ${a}, got ${b}`);
}

async function chat() {
  const reply = await client.chat.completions.create({ model: "demo-chat", messages });
  assert(reply.choices[0].message.content.includes("Hello"), JSON.stringify(reply));
  expect("finish_reason", "stop", reply.choices[0].finish_reason);
  assert(reply.usage.total_tokens > 0, JSON.stringify(reply.usage));
}

async function requestId() {
  const request = { model: "demo-chat", messages };
  assert((await client.chat.completions.create(request))._request_id, "no x-request-id");
  const headers = { "x-request-id": "drive-mjs.1" };
  const reply = await client.chat.completions.create(request, { headers });
  expect("a client's own request id", "drive-mjs.1", reply._request_id);
}

async function streamedChat() {
  let text = "";
  let pieces = 0;
  const reasons = [];
  const usages = [];
  const stream = await client.chat.completions.create({
    model: "demo-chat",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    if (chunk.usage) usages.push(chunk.usage);
    for (const choice of chunk.choices) {
      if (choice.delta.content) {
        text += choice.delta.content;
        pieces += 1;
      }
      if (choice.finish_reason) reasons.push(choice.finish_reason);
    }
  }
  assert(pieces > 1, `${pieces} pieces`);
  assert(text.includes("Hello"), text);
  expect("finish reasons", ["stop"], reasons);
  expect("usage chunks", 1, usages.length);
  assert(usages[0].total_tokens > 0, JSON.stringify(usages));
}

async function speech(file) {
  const reply = await client.audio.speech.create({
    model: "demo-speech",
    voice: "alloy",
    input: SPOKEN,
    response_format: "wav",
  });
  expect("content-type", "audio/wav", reply.headers.get("content-type"));
  assert(reply.headers.get("x-request-id"), "no x-request-id");
  await pipeline(Readable.fromWeb(reply.body), fs.createWriteStream(file));
  const wav = fs.readFileSync(file);
  assert(wav.length > 44, `${wav.length} bytes`);
  expect("the head of the file", "RIFF WAVE", `${wav.toString("latin1", 0, 4)} ${wav.toString("latin1", 8, 12)}`);
  expect("the length in the RIFF header", wav.length - 8, wav.readUInt32LE(4));
}

// `file` comes before `model`: a read stream is sent in chunks, with the model after the audio
async function transcription(file, size, response_format) {
  const reply = await client.audio.transcriptions.create({ file, model: "demo-transcription", response_format });
  const text = response_format === "text" ? reply : reply.text;
  // a stand-in says how much it heard: nothing was lost on the way
  assert(text.includes(`received ${size} bytes`), text);
}

async function embeddings() {
  const request = { model: "demo-embedding", input: "Hello" };
  const base64 = (await client.embeddings.create(request)).data[0].embedding;
  const floats = (await client.embeddings.create({ ...request, encoding_format: "float" })).data[0].embedding;
  expect("numbers (base64)", 8, base64.length);
  expect("numbers (float)", 8, floats.length);
  floats.forEach((b, n) => assert(Math.abs(base64[n] - b) < 1e-6, `base64 says ${base64[n]}, float says ${b}`));
}

async function models() {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  for (const name of ["demo-chat", "demo-speech", "demo-transcription", "demo-embedding"]) {
    assert(names.includes(name), `${name} is not in ${names}`);
  }
}

async function error(model, kind, code) {
  const e = await client.chat.completions.create({ model, messages }).then(
    () => assert(false, `${model} answered without an error`),
    (e) => e,
  );
  assert(e instanceof OpenAI.APIError && e.status, `not an answer with a status: ${e}`);
  expect("class", kind.name, e.constructor.name);
  expect("code", code, e.code);
  assert(e.requestID, "no x-request-id");
  return e;
}

async function notFound() {
  const e = await error("no-such-model", OpenAI.NotFoundError, "model_not_found");
  expect("param", "model", e.param);
  expect("type", "invalid_request_error", e.type);
  expect("x-backend", "local", e.headers.get("x-backend"));
}

async function unauthorized() {
  const e = await error("err-401", OpenAI.AuthenticationError, "invalid_api_key");
  assert(![null, "local"].includes(e.headers.get("x-backend")), "the 401 is not the server's");
}

async function rateLimited() {
  const e = await error("err-429", OpenAI.RateLimitError, "rate_limit_exceeded");
  const headers = {
    "retry-after": "7",
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "1s",
  };
  for (const [name, value] of Object.entries(headers)) expect(name, value, e.headers.get(name));
  assert(![null, "local"].includes(e.headers.get("x-backend")), "the 429 is not the server's");
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "trunkline-sdk-"));
const wav = path.join(folder, "speech.wav");
const size = () => fs.statSync(wav).size;
const stream = () => fs.createReadStream(wav);
const file = () => new File([fs.readFileSync(wav)], "speech.wav", { type: "audio/wav" });

const checks = {
  chat,
  "request id": requestId,
  "streamed chat": streamedChat,
  speech: () => speech(wav),
  "transcription json, read stream": () => transcription(stream(), size(), "json"),
  "transcription text, read stream": () => transcription(stream(), size(), "text"),
  "transcription json, file": () => transcription(file(), size(), "json"),
  "transcription text, file": () => transcription(file(), size(), "text"),
  embeddings,
  models,
  "error 404": notFound,
  "error 401": unauthorized,
  "error 429": rateLimited,
};

try {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (e) {
      console.error(`FAILED ${name}: ${e.name}: ${e.message}${e.cause ? ` (${e.cause})` : ""}`);
      process.exitCode = 1;
      break;
    }
    console.log(`ok ${name}`);
  }
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
