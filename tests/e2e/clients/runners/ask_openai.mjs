// The `openai` client for Node with the scenarios of `ask_openai.py`.

import process from 'node:process';

import OpenAI from 'openai';

const { AT_ONCE, runAll } = await import(`${process.env.RUNNERS}/harness.mjs`);
const client = new OpenAI({ timeout: 20_000 });

function recordCompletion(answer, result) {
  result.total = answer.usage?.total_tokens ?? null;
  for (const choice of answer.choices ?? []) {
    result.role = choice.message.role;
    result.finish = choice.finish_reason;
    result.text = (result.text ?? '') + (choice.message.content ?? '');
    for (const call of choice.message.tool_calls ?? []) (result.calls ??= []).push({ id: call.id, ...call.function });
  }
}

const ways = {
  async plain(request, options, result) {
    recordCompletion(await client.chat.completions.create(request, options), result);
  },
  async raw(request, options, result) {
    const byIndex = new Map();
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true }, options)) {
      result.total = chunk.usage?.total_tokens ?? result.total;
      for (const choice of chunk.choices ?? []) {
        result.finish = choice.finish_reason || result.finish;
        result.text = (result.text ?? '') + (choice.delta.content ?? '');
        for (const call of choice.delta.tool_calls ?? []) {
          if (!byIndex.has(call.index)) byIndex.set(call.index, { id: call.id, name: '', arguments: '' });
          const known = byIndex.get(call.index);
          known.name += call.function.name ?? '';
          known.arguments += call.function.arguments ?? '';
          result.calls = [...byIndex.values()];
        }
      }
    }
  },
  async helper(request, options, result) {
    const stream = client.chat.completions.stream(request, options);
    for await (const _ of stream);
    recordCompletion(await stream.finalChatCompletion(), result);
  },
  async embed(request, options, result) {
    const answer = await client.embeddings.create(request, options);
    result.total = answer.usage?.total_tokens ?? null;
    result.vectors = answer.data.map((entry) => entry.embedding);
  },
};
const handlers = Object.fromEntries(Object.entries(ways).map(([kind, way]) => [
  kind,
  ({ model, body, repeats }, result) => way({ ...body, model }, { maxRetries: repeats }, result),
]));

await runAll(handlers, { atOnce: AT_ONCE });
