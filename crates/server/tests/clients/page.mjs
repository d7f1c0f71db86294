// Drives the chat page in headless Chromium, with the keyboard only: a chat, a stop, another answer.
//
//   node page.mjs http://127.0.0.1:8341 screenshot.png
//
// Needs node 22 or newer (or 20 with --experimental-websocket) and Chromium (its path in CHROMIUM, if it
// is not `chromium`). `run` beside this file does it with the rest.
import assert from "node:assert";
import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [url, picture] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "keeve-page-"));
const browser = spawn(process.env.CHROMIUM ?? "chromium", [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
  `--user-data-dir=${profile}`, "--window-size=1000,720", "about:blank",
]);
const socketAddress = await new Promise((resolve) => {
  let text = "";
  browser.stderr.on("data", (data) => {
    text += data;
    const found = /DevTools listening on (ws:\S+)/.exec(text);
    if (found) resolve(found[1]);
  });
});
const socket = new WebSocket(socketAddress);
await new Promise((resolve) => socket.addEventListener("open", resolve));
let last = 0;
const waiting = new Map();
const problems = [];
socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  if (message.id) waiting.get(message.id)(message);
  if (message.method === "Runtime.exceptionThrown" || message.method === "Log.entryAdded") {
    problems.push(JSON.stringify(message.params));
  }
});
let session;
const send = async (method, params = {}) => {
  const id = ++last;
  socket.send(JSON.stringify({ id, method, params, sessionId: session }));
  const reply = await new Promise((resolve) => waiting.set(id, resolve));
  assert(!reply.error, JSON.stringify(reply.error));
  return reply.result;
};
const { targetId } = await send("Target.createTarget", { url: "about:blank" });
({ sessionId: session } = await send("Target.attachToTarget", { targetId, flatten: true }));
for (const domain of ["Page", "Runtime", "Log"]) await send(`${domain}.enable`);
const value = async (expression) =>
  (await send("Runtime.evaluate", { expression, awaitPromise: true })).result.value;
const until = async (expression) => {
  for (let tries = 0; tries < 1200; tries++) {
    if (await value(expression)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never: ${expression}`);
};
const key = async (name, modifiers = 0, text = undefined) => {
  const code = { Enter: 13, Escape: 27, n: 78, r: 82, s: 83 }[name];
  const event = { key: name, windowsVirtualKeyCode: code, modifiers };
  await send("Input.dispatchKeyEvent", { type: "keyDown", text, ...event });
  await send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
};
const ALT = 1;
const type = async (text) => {
  await send("Input.insertText", { text });
  await key("Enter", 0, "\r");
};

// The story that is stopped would end by itself too soon.
await send("Page.addScriptToEvaluateOnNewDocument", { source: `
  const plain = window.fetch;
  let lengthened = false;
  window.fetch = (path, options = {}) => {
    if (!lengthened && options.body?.includes("long story")) {
      lengthened = true;
      options = { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true, max_tokens: 1500 }) };
    }
    return plain(path, options);
  };` });

try {
  await send("Page.navigate", { url });
  await until("document.querySelector('#model')?.options.length > 0");
  await until("document.activeElement?.id === 'input'");
  await type("What is the capital of France?");
  await until("document.querySelector('#log').innerText.includes('Paris') && document.querySelector('#stop').hidden");
  await type("Tell me a long story about the sea, the wind and a small boat.");
  await until("document.querySelectorAll('.assistant .text')[1]?.innerText.length > 5");
  await key("Escape");
  await until("document.querySelector('#status').innerText === 'stopped'");
  await key("r", ALT);
  await until("document.querySelector('#stop').hidden && /tokens/.test(document.querySelector('#status').innerText)");
  assert.equal(await value("document.querySelectorAll('.turn').length"), 4);
  // Markup in an answer stays text; code has its button.
  assert.equal(await value(`import('/web/markdown.js').then(({ blocks, make }) => {
    const box = make('div', '', ...blocks('# T\\n<img src=x onerror=alert(1)> **b** \`c\`\\n- one\\n- two\\n\`\`\`rust\\nfn main() {}\\n\`\`\`'));
    return [box.querySelectorAll('img').length, box.querySelectorAll('li').length, box.querySelectorAll('.block button').length, box.querySelectorAll('strong').length].join();
  })`), "0,2,1,1");
  await key("s", ALT);
  await until("!document.querySelector('#settings').hidden");
  const { data } = await send("Page.captureScreenshot", { format: "png" });
  if (picture) writeFileSync(picture, Buffer.from(data, "base64"));
  await key("n", ALT);
  await until("document.querySelectorAll('.turn').length === 0");
  assert.deepEqual(problems, []);
  // Images: dropped, pasted, taken out, sent. The demo model says that it cannot see.
  await value(`(async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 30 });
    const blob = await new Promise((done) => canvas.toBlob(done));
    const data = new DataTransfer();
    data.items.add(new File([blob], "a.png", { type: "image/png" }));
    const options = { bubbles: true, cancelable: true };
    document.querySelector("main").dispatchEvent(new DragEvent("drop", { dataTransfer: data, ...options }));
    document.querySelector("#input").dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, ...options }));
  })()`);
  await until("[...document.querySelectorAll('#tray img')].filter((image) => image.naturalWidth === 40).length === 2");
  await value("document.querySelector('#tray button').click()");
  await until("document.querySelectorAll('#tray img').length === 1");
  await type("What is this?");
  await until("document.querySelector('.user img')?.naturalWidth === 40");
  await until("document.querySelector('.error')?.innerText.includes('cannot see images')");
  assert.equal(await value("document.querySelector('#tray').hidden"), true);
  console.log("ok page");
} finally {
  browser.kill();
}
