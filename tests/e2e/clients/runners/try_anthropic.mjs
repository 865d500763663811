// Call gatepass with Anthropic's client for Node, as try_anthropic.py does with the one for Python.
import { readFileSync } from "node:fs";

// imported by its path, because this file is not in the folder of the packages
const { default: Anthropic } = await import(`${process.cwd()}/node_modules/@anthropic-ai/sdk/index.mjs`);
const client = new Anthropic({ maxRetries: 0 });

async function streamed(body) {
  let text = "";
  const stream = client.messages.stream(body).on("text", (delta) => (text += delta));
  const { parsed_output, ...message } = await stream.finalMessage(); // the helper adds it to each message
  return { message, text };
}

async function raw(body) {
  const kinds = [];
  for await (const event of await client.messages.create({ ...body, stream: true })) kinds.push(event.type);
  return kinds;
}

async function listed() {
  const found = [];
  for await (const one of client.messages.batches.list({ limit: 2 })) found.push(one);
  return found;
}

const WAYS = {
  create: (body) => client.messages.create(body),
  stream: streamed,
  raw,
  beta: (body) => client.beta.messages.create({ ...body, betas: ["made-up-2027-01-01"] }),
  count: (body) => client.messages.countTokens(body),
  batches: listed,
};

const outcomes = [];
for (const [way, body] of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    outcomes.push({ answer: await WAYS[way](body) });
  } catch (error) {
    if (!(error instanceof Anthropic.APIError)) throw error;
    const inner = error.error?.error ?? null;
    outcomes.push({ error: error.constructor.name, status: error.status ?? null, inner });
  }
}
console.log(JSON.stringify(outcomes));
