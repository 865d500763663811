// Prints what the `openai` client for Node makes of a stream of the Responses API that fails: its events and its error.
// The argument is `create` or `stream`: the plain iteration, or the client's helper.

import process from 'node:process';

import OpenAI from 'openai';

const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });
const asked = { model: 'm', input: 'Hi' };
const seen = [];
let error = null;
try {
  const stream = process.argv[2] === 'stream'
    ? client.responses.stream(asked)
    : await client.responses.create({ ...asked, stream: true });
  for await (const event of stream) seen.push(event.type);
} catch (caught) {
  error = { name: caught.constructor.name, code: caught.code ?? null, message: caught.message };
}
process.stdout.write(JSON.stringify({ seen, error }));
