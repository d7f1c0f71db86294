// The official Node client against a keeve server with the demo model.
import assert from "node:assert";
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
await assert.rejects(client.chat.completions.create({ ...asked, n: -1 }), OpenAI.BadRequestError);
console.log("ok node");
