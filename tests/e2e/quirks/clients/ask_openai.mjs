// The `openai` client for Node on the rows: input and output as in `ask_openai.py`.

import process from 'node:process';

import OpenAI from 'openai';

const { runAll } = await import(`${process.env.CLIENT_FOLDER}/calls.mjs`);
const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });

function errorFields(error) {
  return {
    class: error.constructor.name,
    message: String(error.message),
    status: error.status ?? null,
    code: error.code ?? null,
    retry_after: error.headers?.get?.('retry-after') ?? null,
    should_retry: error.headers?.get?.('x-should-retry') ?? null,
  };
}

function recordCompletion(answer, result) {
  result.usage = answer.usage ?? null;
  for (const choice of answer.choices ?? []) {
    result.role = choice.message.role;
    result.finish = choice.finish_reason;
    result.text += choice.message.content ?? '';
    for (const call of choice.message.tool_calls ?? []) result.calls.push([call.function.name, call.function.arguments]);
  }
}

const handlers = {
  async plain(model, body, result, options) {
    recordCompletion(await client.chat.completions.create({ ...body, model }, options), result);
  },
  async raw(model, body, result, options) {
    const byIndex = new Map();
    for await (const chunk of await client.chat.completions.create({ ...body, model, stream: true }, options)) {
      result.chunks += 1;
      result.usage = chunk.usage ?? result.usage;
      for (const choice of chunk.choices ?? []) {
        result.finish = choice.finish_reason || result.finish;
        result.text += choice.delta.content ?? '';
        for (const call of choice.delta.tool_calls ?? []) {
          if (!byIndex.has(call.index)) byIndex.set(call.index, ['', '']);
          const known = byIndex.get(call.index);
          known[0] += call.function.name ?? '';
          known[1] += call.function.arguments ?? '';
          result.calls = [...byIndex.values()];
        }
      }
    }
  },
  async helper(model, body, result, options) {
    const stream = client.chat.completions.stream({ ...body, model }, options);
    for await (const _ of stream) result.chunks += 1;
    recordCompletion(await stream.finalChatCompletion(), result);
  },
  async embed(model, body, result) {
    const answer = await client.embeddings.create({ ...body, model });
    result.usage = answer.usage ?? null;
    result.vectors = answer.data.map((entry) => entry.embedding);
  },
};

await runAll(handlers, errorFields);
