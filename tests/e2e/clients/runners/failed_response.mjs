// Prints what the `openai` client for Node makes of a stream of the Responses API: its events, its text and its error.
// The argument is `create` or `stream`: the plain iteration, or the client's helper.

import process from 'node:process';

import OpenAI from 'openai';

const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
const asked = { model: 'm', input: 'Hi' };
const seen = [];
let text = '';
let error = null;
try {
  const stream = process.argv[2] === 'stream'
    ? client.responses.stream(asked)
    : await client.responses.create({ ...asked, stream: true });
  for await (const event of stream) {
    seen.push(event.type);
    if (event.type === 'response.output_text.delta') text += event.delta;
  }
  if (process.argv[2] === 'stream') text = (await stream.finalResponse()).output_text;
} catch (caught) {
  error = { name: caught.constructor.name, code: caught.code ?? null, message: caught.message };
}
process.stdout.write(JSON.stringify({ seen, text, error }));
