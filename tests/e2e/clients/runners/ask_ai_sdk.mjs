// The AI SDK with its openai-compatible provider, with the scenarios of `ask_openai.py`.
// `raw` reads the parts of the provider's own stream, `helper` is streamText.

import process from 'node:process';

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, jsonSchema, streamText, tool } from 'ai';

const { AT_ONCE, runAll } = await import(`${process.env.RUNNERS}/harness.mjs`);
const PROMPT = 'What colour is the sky?';
globalThis.AI_SDK_LOG_WARNINGS = false;

function errorFields(error) {
  const inner = error?.lastError ?? error;
  const reported = inner?.data?.error ?? inner?.error ?? {};
  return {
    class: inner?.constructor?.name ?? typeof inner,
    message: String(inner?.message ?? (typeof inner === 'string' ? inner : JSON.stringify(inner))),
    status: inner?.statusCode ?? null,
    code: reported.code ?? null,
    retry_after: inner?.responseHeaders?.['retry-after'] ?? null,
    should_retry: inner?.responseHeaders?.['x-should-retry'] ?? null,
  };
}

// Sends the row's request unchanged: the SDK's conversion is not measured.
function provider(body) {
  return createOpenAICompatible({
    name: 'upstream',
    baseURL: process.env.OPENAI_BASE_URL,
    apiKey: process.env.OPENAI_API_KEY,
    includeUsage: 'stream_options' in body,
    transformRequestBody: (made) => ({ ...made, ...body }),
  });
}

function tools(body) {
  return Object.fromEntries(
    (body.tools ?? []).map(({ function: about }) => [
      about.name,
      tool({ description: about.description, inputSchema: jsonSchema(about.parameters) }),
    ]),
  );
}

const FINISH = { 'tool-calls': 'tool_calls', 'content-filter': 'content_filter' };

const handlers = {
  async plain({ model, body }, result) {
    const answer = await generateText({ model: provider(body)(model), prompt: PROMPT, tools: tools(body), maxRetries: 0 });
    result.text = answer.text;
    result.calls = answer.toolCalls.map((call) => ({ name: call.toolName, arguments: JSON.stringify(call.input) }));
    result.finish = FINISH[answer.finishReason] ?? answer.finishReason;
    result.total = answer.usage?.totalTokens ?? null;
  },
  async raw({ model, body }, result) {
    result.text = '';
    const { stream } = await provider(body)(model).doStream({
      prompt: [{ role: 'user', content: [{ type: 'text', text: PROMPT }] }],
    });
    for await (const part of stream) {
      if (part.type === 'text-delta') result.text += part.delta;
      if (part.type === 'tool-call') (result.calls ??= []).push({ name: part.toolName, arguments: part.input });
      if (part.type === 'error') result.error ??= errorFields(part.error);
      if (part.type === 'finish') {
        const reason = part.finishReason?.unified ?? part.finishReason;
        result.finish = FINISH[reason] ?? reason;
        const { inputTokens, outputTokens } = part.usage;
        if (inputTokens?.total != null) result.total = inputTokens.total + outputTokens.total;
      }
    }
  },
  async helper({ model, body }, result) {
    result.text = '';
    const answer = streamText({
      model: provider(body)(model), prompt: PROMPT, tools: tools(body), maxRetries: 0, onError: () => {},
    });
    for await (const part of answer.fullStream) {
      if (part.type === 'text-delta') result.text += part.text;
      if (part.type === 'tool-call') (result.calls ??= []).push({ name: part.toolName, arguments: JSON.stringify(part.input) });
      if (part.type === 'error') result.error ??= errorFields(part.error);
      if (part.type === 'finish') {
        result.finish = FINISH[part.finishReason] ?? part.finishReason;
        result.total = part.totalUsage?.totalTokens ?? null;
      }
    }
  },
  async embed({ model, body: { input, ...body } }, result) {
    const upstream = createOpenAICompatible({
      name: 'upstream',
      baseURL: process.env.OPENAI_BASE_URL,
      apiKey: process.env.OPENAI_API_KEY,
    });
    const options = { upstream: { dimensions: body.dimensions } };
    const answer = await embedMany({
      model: upstream.embeddingModel(model), values: input, maxRetries: 0, providerOptions: options,
    });
    result.vectors = answer.embeddings;
    result.total = answer.usage.tokens;
  },
};

await runAll(handlers, { fieldsOf: errorFields, atOnce: AT_ONCE });
