// The `openai` client for Node: streamed chats as of long_streams.py.

import { readFileSync } from 'node:fs';
import process from 'node:process';

import OpenAI from 'openai';

const ANSWER_TOKENS = [16, 64, 256, 1024];

async function streamOne(client, tokens) {
  let text = '';
  let finish = null;
  let usage = null;
  const stream = await client.chat.completions.create({
    model: 'tiny-chat',
    messages: [{ role: 'user', content: 'Let the words come.' }],
    max_tokens: tokens,
    stream: true,
    stream_options: { include_usage: true },
    ignore_eos: true, // an option of llama.cpp: the reply has exactly the requested number of tokens
  });
  for await (const chunk of stream) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? '';
      finish = choice.finish_reason ?? finish;
    }
  }
  const counted = usage?.completion_tokens;
  if (!text || finish !== 'length' || counted !== tokens) {
    throw new Error(`${text.length} characters, finish_reason ${finish}, ${counted} tokens of ${tokens}`);
  }
}

async function work(client, end, report) {
  for (let number = 0; performance.now() < end; number += 1) {
    const tokens = ANSWER_TOKENS[number % ANSWER_TOKENS.length];
    try {
      await streamOne(client, tokens);
      report.finished += 1;
      report.answer_tokens += tokens;
    } catch (error) {
      report.failures.push(`${error.name}: ${error.message}`);
    }
  }
}

const [{ seconds, workers }] = JSON.parse(readFileSync(process.env.INPUT, 'utf8'));
const report = { finished: 0, answer_tokens: 0, failures: [] };
const client = new OpenAI({ maxRetries: 0 });
const end = performance.now() + seconds * 1000;
await Promise.all(Array.from({ length: workers }, () => work(client, end, report)));
process.stdout.write(JSON.stringify(report));
