// Load of openai-node without retries. Prints each failure, when each task has begun, and the number of requests.

import process from 'node:process';

import OpenAI from 'openai';

const [port, concurrency, pauseMs, events] = process.argv.slice(2).map(Number);
const client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'k', maxRetries: 0, timeout: 30_000 });
const body = { model: 'm', messages: [{ role: 'user', content: 'hi' }] };
let isOver = false;
let requests = 0;
let begun = 0;
process.stdin.on('end', () => { isOver = true; });
process.stdin.resume();

async function sendRequest(streams) {
  if (!streams) {
    const answer = await client.chat.completions.create(body);
    if (answer.choices[0].finish_reason !== 'stop') throw new Error('incomplete reply');
    return;
  }
  let received = 0;
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
    if (chunk.choices.length) received += 1;
  }
  if (received !== events) throw new Error(`a stream of ${received} events`);
}

async function loop(number) {
  for (let count = number; !isOver; count += 1) {
    requests += 1;
    try {
      await sendRequest(count % 2 === 0);
    } catch (error) {
      const reason = [error, error?.cause, error?.cause?.cause].filter(Boolean).join(' / ');
      console.log(JSON.stringify({ failed: reason, streams: count % 2 === 0 }));
    }
    if (count === number) {
      begun += 1;
      if (begun === concurrency) console.log(JSON.stringify({ began: concurrency }));
    }
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 2 * pauseMs));
  }
}

await Promise.all(Array.from({ length: concurrency }, (_, number) => loop(number)));
console.log(JSON.stringify({ requests }));
process.exit(0);
