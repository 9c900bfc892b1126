// 60 chats, 4 at a time, no retries by the SDK, while the harness kills a server: none may fail.
// BASE_URL ends in /v1, SDK_NODE is the folder that holds node_modules.

import { createRequire } from "node:module";
import path from "node:path";

const { BASE_URL, SDK_NODE } = process.env;
if (!BASE_URL || !SDK_NODE) throw new Error("BASE_URL and SDK_NODE must be set");
const { OpenAI } = createRequire(path.resolve(SDK_NODE, "package.json"))("openai");

const client = new OpenAI({ baseURL: BASE_URL, apiKey: "sk-test", timeout: 20_000, maxRetries: 0 });

let next = 0;
let ok = 0;
let failed = 0;

async function chats() {
  while (next < 60) {
    const word = `word-${next++}`;
    try {
      const messages = [{ role: "user", content: word }];
      const reply = await client.chat.completions.create({ model: "demo-chat", messages });
      if (!reply.choices[0].message.content.includes(word)) throw new Error(JSON.stringify(reply));
      ok += 1;
    } catch (e) {
      failed += 1;
      console.error(`failed: ${e.name}: ${e.message}`);
    }
    if (ok + failed === 10) console.log("started");
  }
}

await Promise.all([chats(), chats(), chats(), chats()]);
console.log(`done ${ok + failed} ok ${ok} failed ${failed}`);
process.exitCode = failed ? 1 : 0;
