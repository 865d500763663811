// Run tasks of two steps with a Node client, as sdk_tasks.py does with the Python ones.

import { readFileSync } from 'node:fs';
import process from 'node:process';

const { runAll } = await import(`${process.env.RUNNERS}/harness.mjs`);
const [task] = JSON.parse(readFileSync(process.env.INPUT, 'utf8'));
const schema = {
  type: 'object', properties: { a: { type: 'integer' }, b: { type: 'integer' } }, required: ['a', 'b'], additionalProperties: false,
};

async function byOpenAI(model, streams, steps) {
  const { default: OpenAI } = await import('openai');
  const client = new OpenAI({ maxRetries: 0 });
  const tools = [{ type: 'function', name: 'add', parameters: schema, strict: false }];
  const picture = { type: 'input_image', image_url: `data:image/png;base64,${task.picture}`, detail: 'auto' };
  const input = [{ role: 'user', content: [{ type: 'input_text', text: task.question }, picture] }];
  for (;;) {
    const asked = { model, input, tools };
    const answer = streams ? await client.responses.stream(asked).finalResponse() : await client.responses.create(asked);
    const calls = answer.output.filter((one) => one.type === 'function_call')
      .map((one) => [one.call_id, one.name, JSON.parse(one.arguments)]);
    steps.push({ text: answer.output_text, calls, tokens: [answer.usage.input_tokens, answer.usage.output_tokens] });
    if (!calls.length) return;
    input.push(...answer.output);
    input.push(...calls.map(([id, , { a, b }]) => ({ type: 'function_call_output', call_id: id, output: String(a + b) })));
  }
}

async function byAnthropic(model, streams, steps) {
  const { default: Anthropic } = await import('@anthropic-ai/sdk');
  const client = new Anthropic({ maxRetries: 0 });
  const source = { type: 'base64', media_type: 'image/png', data: task.picture };
  const content = [{ type: 'text', text: task.question }, { type: 'image', source }];
  const messages = [{ role: 'user', content }];
  for (;;) {
    const asked = { model, max_tokens: 64, messages, tools: [{ name: 'add', input_schema: schema }] };
    const answer = streams ? await client.messages.stream(asked).finalMessage() : await client.messages.create(asked);
    const calls = answer.content.filter((one) => one.type === 'tool_use').map((one) => [one.id, one.name, one.input]);
    const text = answer.content.filter((one) => one.type === 'text').map((one) => one.text).join('');
    steps.push({ text, calls, tokens: [answer.usage.input_tokens, answer.usage.output_tokens] });
    if (!calls.length) return;
    const results = calls.map(([id, , { a, b }]) => ({ type: 'tool_result', tool_use_id: id, content: String(a + b) }));
    messages.push({ role: 'assistant', content: answer.content }, { role: 'user', content: results });
  }
}

async function byAISDK(model, streams, steps) {
  const { generateText, jsonSchema, stepCountIs, streamText, tool } = await import('ai');
  globalThis.AI_SDK_LOG_WARNINGS = false;
  let failed = null;
  const asked = {
    model, maxRetries: 0, stopWhen: stepCountIs(3),
    tools: { add: tool({ inputSchema: jsonSchema(schema), execute: ({ a, b }) => a + b }) },
    messages: [{ role: 'user', content: [{ type: 'text', text: task.question }, { type: 'image', image: task.picture }] }],
    onError: ({ error }) => { failed ??= error; },
    providerOptions: task.stores ? {} : { openai: { store: false } },
  };
  const answer = streams ? streamText(asked) : await generateText(asked);
  if (streams) await answer.consumeStream({ onError: (error) => { failed ??= error; } });
  if (failed) throw failed;
  for (const one of await answer.steps) {
    const calls = one.toolCalls.map((call) => [call.toolCallId, call.toolName, call.input]);
    steps.push({ text: one.text, calls, tokens: [one.usage.inputTokens, one.usage.outputTokens] });
  }
}

const WAYS = {
  'openai': byOpenAI,
  'anthropic': byAnthropic,
  '@ai-sdk/openai': async (model, ...others) => {
    const { createOpenAI } = await import('@ai-sdk/openai');
    return byAISDK(createOpenAI({ baseURL: process.env.OPENAI_BASE_URL }).responses(model), ...others);
  },
  '@ai-sdk/anthropic': async (model, ...others) => {
    const { createAnthropic } = await import('@ai-sdk/anthropic');
    return byAISDK(createAnthropic({ baseURL: `${process.env.ANTHROPIC_BASE_URL}/v1` })(model), ...others);
  },
};

await runAll({ task: ({ model, streams }, result) => WAYS[process.argv[2]](model, streams, result.steps) });
