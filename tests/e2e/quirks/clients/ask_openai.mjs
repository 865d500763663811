// The `openai` client for Node on the rows: the same in and out as `ask_openai.py` beside it. The calls are read
// from the file that CALLS names: stdin holds this script.

import { readFileSync } from 'node:fs';
import process from 'node:process';

import OpenAI from 'openai';

const PARALLEL = 6;
const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });

function complaint(error) {
  return {
    class: error.constructor.name,
    message: String(error.message),
    status: error.status ?? null,
    code: error.code ?? null,
    retry_after: error.headers?.get?.('retry-after') ?? null,
    should_retry: error.headers?.get?.('x-should-retry') ?? null,
  };
}

function whole(answer, seen) {
  seen.usage = answer.usage ?? null;
  for (const choice of answer.choices ?? []) {
    seen.role = choice.message.role;
    seen.finish = choice.finish_reason;
    seen.text += choice.message.content ?? '';
    for (const call of choice.message.tool_calls ?? []) seen.calls.push([call.function.name, call.function.arguments]);
  }
}

const ways = {
  async plain(model, body, seen) {
    whole(await client.chat.completions.create({ ...body, model }), seen);
  },
  async raw(model, body, seen) {
    const byIndex = new Map();
    for await (const chunk of await client.chat.completions.create({ ...body, model, stream: true })) {
      seen.chunks += 1;
      seen.usage = chunk.usage ?? seen.usage;
      for (const choice of chunk.choices ?? []) {
        seen.finish = choice.finish_reason || seen.finish;
        seen.text += choice.delta.content ?? '';
        for (const call of choice.delta.tool_calls ?? []) {
          if (!byIndex.has(call.index)) byIndex.set(call.index, ['', '']);
          const known = byIndex.get(call.index);
          known[0] += call.function.name ?? '';
          known[1] += call.function.arguments ?? '';
          seen.calls = [...byIndex.values()];
        }
      }
    }
  },
  async helper(model, body, seen) {
    const stream = client.chat.completions.stream({ ...body, model });
    for await (const _ of stream) seen.chunks += 1;
    whole(await stream.finalChatCompletion(), seen);
  },
  async embed(model, body, seen) {
    const answer = await client.embeddings.create({ ...body, model });
    seen.usage = answer.usage ?? null;
    seen.vectors = answer.data.map((entry) => entry.embedding);
  },
};

async function one({ model, way, body }) {
  const seen = { text: '', calls: [], usage: null, finish: null, role: null, chunks: 0, vectors: null, error: null };
  try {
    await ways[way](model, body, seen);
  } catch (error) {
    seen.error = complaint(error);
  }
  return seen;
}

const calls = JSON.parse(readFileSync(process.env.CALLS, 'utf8'));
const results = new Array(calls.length);
let next = 0;
async function work() {
  while (next < calls.length) {
    const at = next++;
    results[at] = await one(calls[at]);
  }
}
await Promise.all(Array.from({ length: PARALLEL }, work));
process.stdout.write(JSON.stringify(results));
