// The AI SDK with its openai-compatible provider: generateText and streamText, which call the tools of all rounds themselves.

import process from 'node:process';

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';

const { errorFields, runAll } = await import(`${process.env.RUNNERS}/harness.mjs`);
globalThis.AI_SDK_LOG_WARNINGS = false;
const FINISH = { 'tool-calls': 'tool_calls', 'content-filter': 'content_filter' };
const upstream = createOpenAICompatible({
  name: 'upstream',
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
});

function members(scenario) {
  const { kind, model, question, picture, temperature, max_tokens: maxOutputTokens, tool: about } = scenario;
  const parts = [{ type: 'text', text: question }, { type: 'image', image: picture }];
  const made = {
    model: kind === 'completions' ? upstream.completionModel(model) : upstream(model), temperature, maxOutputTokens, maxRetries: 0,
    messages: [{ role: 'user', content: kind === 'picture' ? parts : question }],
  };
  if (kind === 'extra_parameter') made.providerOptions = { upstream: { images: [picture] } };
  if (kind === 'tools' || kind === 'rounds') {
    const add = { description: about.description, inputSchema: jsonSchema(about.parameters) };
    if (kind === 'rounds') add.execute = ({ a, b }) => a + b;
    made.tools = { [about.name]: tool(add) };
    made.stopWhen = stepCountIs(scenario.rounds + 2);
  }
  return made;
}

async function chat(scenario, result) {
  let failed = null;
  const made = members(scenario);
  const answer = scenario.streams
    ? streamText({ ...made, onError: ({ error }) => { failed ??= error; } })
    : await generateText(made);
  if (scenario.streams) await answer.consumeStream({ onError: (error) => { failed ??= error; } });
  if (failed) throw failed;
  const steps = await answer.steps;
  result.text = (await answer.text) || null;
  result.finish = FINISH[await answer.finishReason] ?? (await answer.finishReason);
  result.total = steps.at(-1).usage.totalTokens ?? null; // answer.usage is the last step's in 6, of all steps in 7
  const calls = steps.flatMap((step) => step.toolCalls);
  if (calls.length) result.calls = calls.map((one) => ({ id: one.toolCallId, name: one.toolName, arguments: one.input }));
}

async function embed({ model, texts }, result) {
  const answer = await embedMany({ model: upstream.embeddingModel(model), values: texts, maxRetries: 0 });
  result.vectors = answer.embeddings;
  result.total = answer.usage.tokens;
}

const handlers = {
  completions: chat, chat, tools: chat, picture: chat, extra_parameter: chat, rounds: chat, embed, embed_many: embed,
};

await runAll(handlers, { fieldsOf: (error) => errorFields(error?.lastError ?? error) });
