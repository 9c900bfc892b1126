// Drives Debian's Chromium for tests/it/page.rs: a line of JSON in, a line of JSON out.

import { readFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(join(process.env.BROWSER_NODE, "node_modules", "x"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const folder = mkdtempSync(join(tmpdir(), "trunkline-browser-"));
const context = await chromium.launchPersistentContext(folder, {
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run"],
  locale: "en-GB",
});
const page = context.pages()[0] ?? await context.newPage();

// what must not happen: errors, breaches of the policy, requests to anybody else
let home = null;
const problems = [];
page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) problems.push(`console: ${message.text()}`);
});
context.on("request", (request) => {
  const url = request.url();
  if (!url.startsWith("data:") && !url.startsWith(home)) problems.push(`request: ${url}`);
});
await page.addInitScript(() => {
  document.addEventListener("securitypolicyviolation", (event) => {
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`);
  });
});

const orders = {
  open: async ({ url }) => {
    home = new URL(url).origin;
    await page.goto(url);
  },
  // `code` is a function of one argument, which need not be there
  run: async ({ code, argument }) => page.evaluate(`(${code})(${JSON.stringify(argument ?? null)})`),
  size: async ({ width, height }) => page.setViewportSize({ width, height }),
  scheme: async ({ scheme }) => page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" }),
  press: async ({ key }) => page.keyboard.press(key),
  type: async ({ text }) => page.keyboard.type(text),
  // a page's policy binds `addScriptTag`, not the debugger
  axe: async () => {
    await page.evaluate(`${axe}; undefined`);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
  },
  problems: async () => problems.splice(0),
};

process.stdout.write("ready\n");
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  let answer;
  try {
    answer = { ok: await orders[order.do](order) ?? null };
  } catch (error) {
    answer = { error: String(error.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await context.close();
rmSync(folder, { recursive: true, force: true });
