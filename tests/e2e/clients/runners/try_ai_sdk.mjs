// The AI SDK with its openai-compatible provider: generateText and streamText, which play the rounds by themselves.

import process from 'node:process';

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';

const { play } = await import(`${process.env.BESIDE}/harness.mjs`);
globalThis.AI_SDK_LOG_WARNINGS = false;
const FINISH = { 'tool-calls': 'tool_calls', 'content-filter': 'content_filter' };
const upstream = createOpenAICompatible({
  name: 'upstream',
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
});

function members(told) {
  const { kind, model, question, picture, temperature, max_tokens: maxOutputTokens, tool: about } = told;
  const parts = [{ type: 'text', text: question }, { type: 'image', image: picture }];
  const made = {
    model: kind === 'completions' ? upstream.completionModel(model) : upstream(model), temperature, maxOutputTokens, maxRetries: 0,
    messages: [{ role: 'user', content: kind === 'picture' ? parts : question }],
  };
  if (kind === 'stray') made.providerOptions = { upstream: { images: [picture] } };
  if (kind === 'tools' || kind === 'rounds') {
    const add = { description: about.description, inputSchema: jsonSchema(about.parameters) };
    if (kind === 'rounds') add.execute = ({ a, b }) => a + b;
    made.tools = { [about.name]: tool(add) };
    made.stopWhen = stepCountIs(told.rounds + 2);
  }
  return made;
}

async function chat(told, seen) {
  let failed = null;
  const made = members(told);
  const answer = told.streams
    ? streamText({ ...made, onError: ({ error }) => { failed ??= error; } })
    : await generateText(made);
  if (told.streams) await answer.consumeStream({ onError: (error) => { failed ??= error; } });
  if (failed) throw failed;
  const steps = await answer.steps;
  seen.text = (await answer.text) || null;
  seen.finish = FINISH[await answer.finishReason] ?? (await answer.finishReason);
  seen.total = steps.at(-1).usage.totalTokens ?? null; // answer.usage is the last step's in 6, of all steps in 7
  const calls = steps.flatMap((step) => step.toolCalls);
  if (calls.length) seen.calls = calls.map((one) => ({ id: one.toolCallId, name: one.toolName, arguments: one.input }));
}

async function embed({ model, texts }, seen) {
  const answer = await embedMany({ model: upstream.embeddingModel(model), values: texts, maxRetries: 0 });
  seen.vectors = answer.embeddings;
  seen.total = answer.usage.tokens;
}

const ways = {
  completions: chat, chat, tools: chat, picture: chat, stray: chat, rounds: chat, embed, embed_many: embed,
};

await play(ways, (error) => {
  const inner = error?.lastError ?? error;
  return {
    class: inner?.constructor?.name ?? typeof inner,
    message: String(inner?.message ?? inner),
    status: inner?.statusCode ?? null,
  };
});
