// The `openai` client for Node on the rows: the same in and out as `ask_openai.py` beside it.

import process from 'node:process';

import OpenAI from 'openai';

const { makeAll } = await import(`${process.env.BESIDE}/calls.mjs`);
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
  async plain(model, body, seen, options) {
    whole(await client.chat.completions.create({ ...body, model }, options), seen);
  },
  async raw(model, body, seen, options) {
    const byIndex = new Map();
    for await (const chunk of await client.chat.completions.create({ ...body, model, stream: true }, options)) {
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
  async helper(model, body, seen, options) {
    const stream = client.chat.completions.stream({ ...body, model }, options);
    for await (const _ of stream) seen.chunks += 1;
    whole(await stream.finalChatCompletion(), seen);
  },
  async embed(model, body, seen) {
    const answer = await client.embeddings.create({ ...body, model });
    seen.usage = answer.usage ?? null;
    seen.vectors = answer.data.map((entry) => entry.embedding);
  },
};

await makeAll(ways, complaint);
