// The official Node client against a keeve server with the demo model.
import assert from "node:assert";
import { Ollama } from "ollama";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.KEEVE_URL}/v1`, apiKey: process.env.KEEVE_KEY });
const asked = {
  model: "keeve-demo", temperature: 0, max_tokens: 40,
  messages: [{ role: "user", content: "What is the capital of France?" }],
};
const answer = await client.chat.completions.create(asked);
assert.match(answer.choices[0].message.content, /Paris/);
let text = "";
for await (const piece of await client.chat.completions.create({ ...asked, stream: true })) {
  text += piece.choices[0]?.delta?.content ?? "";
}
assert.equal(text, answer.choices[0].message.content);
const response = await client.responses.create({ model: "keeve-demo", input: "Hello", max_output_tokens: 5 });
assert.equal(response.status, "incomplete");
const { data } = await client.embeddings.create({ model: "keeve-demo", input: "a cat" });
assert.equal(data[0].embedding.length, 512);
const city = { type: "object", properties: { city: { enum: ["Ulm", "Bonn"] } }, required: ["city"], additionalProperties: false };
const formed = await client.chat.completions.create({
  ...asked, max_tokens: 60, logprobs: true, top_logprobs: 2,
  response_format: { type: "json_schema", json_schema: { name: "city", schema: city, strict: true } },
});
assert.match(JSON.parse(formed.choices[0].message.content).city, /^(Ulm|Bonn)$/);
assert.equal(formed.choices[0].logprobs.content[0].top_logprobs.length, 2);
const tools = [{ type: "function", function: { name: "weather", parameters: city } }];
const called = await client.chat.completions
  .stream({ ...asked, max_tokens: 100, tools, tool_choice: "required", parallel_tool_calls: false })
  .finalChatCompletion();
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.match(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city, /^(Ulm|Bonn)$/);
const kinds = [];
for await (const event of await client.responses.create({ model: "keeve-demo", input: "Hello", max_output_tokens: 5, stream: true })) {
  kinds.push(event.type);
}
assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.incomplete"]);
await assert.rejects(client.chat.completions.create({ ...asked, n: -1 }), OpenAI.BadRequestError);
const ollama = new Ollama({
  host: process.env.KEEVE_URL, headers: { Authorization: `Bearer ${process.env.KEEVE_KEY}` },
});
const local = { model: "keeve-demo", messages: asked.messages, options: { temperature: 0, num_predict: 40 } };
const said = await ollama.chat(local);
assert.equal(said.message.content, answer.choices[0].message.content);
let streamed = "";
for await (const piece of await ollama.chat({ ...local, stream: true })) {
  streamed += piece.message.content;
}
assert.equal(streamed, said.message.content);
assert.equal((await ollama.list()).models[0].name, "keeve-demo:latest");
assert.equal((await ollama.embed({ model: "keeve-demo", input: "a cat" })).embeddings[0].length, 512);
assert.ok((await ollama.show({ model: "keeve-demo" })).model_info["general.architecture"]);
await assert.rejects(ollama.pull({ model: "llama3" }), /not supported/);
console.log("ok node");
