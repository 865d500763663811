// The `openai` client for Node.

import process from 'node:process';

import OpenAI, { toFile } from 'openai';

const { play } = await import(`${process.env.BESIDE}/harness.mjs`);
const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });

function opening({ kind, question, picture }) {
  const parts = [{ type: 'text', text: question }, { type: 'image_url', image_url: { url: picture } }];
  return [{ role: 'user', content: kind === 'picture' ? parts : question }];
}

function members({ kind, model, temperature, max_tokens, tool, picture }) {
  const made = { model, temperature, max_tokens };
  if (kind === 'tools' || kind === 'rounds') {
    made.tools = [{ type: 'function', function: tool }];
    made.parallel_tool_calls = true;
  }
  if (kind === 'stray') made.images = [picture];
  return made;
}

// One answer: its message. Streams are put together by the client's own helper.
async function once(told, messages, seen) {
  const body = { ...members(told), messages };
  let answer;
  if (told.streams) {
    const stream = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
    for await (const _ of stream);
    answer = await stream.finalChatCompletion();
  } else {
    answer = await client.chat.completions.create(body);
  }
  const [{ message, finish_reason }] = answer.choices;
  seen.text = message.content || null;
  seen.finish = finish_reason;
  seen.total = answer.usage?.total_tokens ?? null;
  for (const { id, function: { name, arguments: made } } of message.tool_calls ?? []) {
    seen.calls = [...(seen.calls ?? []), { id, name, arguments: JSON.parse(made) }];
  }
  return message;
}

async function chat(told, seen) {
  await once(told, opening(told), seen);
}

async function rounds(told, seen) {
  const messages = opening(told);
  for (let round = 0; round <= told.rounds; round += 1) {
    const { content, tool_calls: calls } = await once(told, messages, seen);
    if (!calls?.length) return;
    messages.push({ role: 'assistant', content, tool_calls: calls });
    for (const { id, function: { arguments: made } } of calls) {
      const { a, b } = JSON.parse(made);
      messages.push({ role: 'tool', tool_call_id: id, content: String(a + b) });
    }
  }
}

async function complete({ model, question, temperature, max_tokens, streams }, seen) {
  const body = { model, prompt: question, temperature, max_tokens };
  let chunks;
  if (streams) chunks = await client.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
  else chunks = [await client.completions.create(body)];
  seen.text = '';
  for await (const chunk of chunks) {
    seen.total = chunk.usage?.total_tokens ?? seen.total;
    for (const choice of chunk.choices) {
      seen.text += choice.text;
      seen.finish = choice.finish_reason ?? seen.finish;
    }
  }
}

async function respond({ model, question, temperature, streams }, seen) {
  const body = { model, input: question, temperature };
  let answer = null;
  if (streams) {
    for await (const event of await client.responses.create({ ...body, stream: true })) {
      if (event.type === 'response.completed') answer = event.response;
    }
    seen.text = answer.output[0].content[0].text;
  } else {
    answer = await client.responses.create(body);
    seen.text = answer.output_text;
  }
  seen.total = answer.usage.total_tokens;
}

async function hear({ model }, seen) {
  const file = await toFile(Buffer.from('RIFF    WAVE'), 'question.wav', { type: 'audio/wav' });
  seen.text = (await client.audio.transcriptions.create({ model, file })).text;
}

async function speak({ model }, seen) {
  const answer = await client.audio.speech.create({ model, voice: 'alloy', input: 'Hi' });
  seen.text = Buffer.from(await answer.arrayBuffer()).toString('latin1');
}

async function draw({ model, question }, seen) {
  seen.text = (await client.images.generate({ model, prompt: question })).data[0].b64_json;
}

async function moderate({ model, question }, seen) {
  seen.text = (await client.moderations.create({ model, input: question })).results[0].flagged ? 'flagged' : 'fine';
}

async function files({ file }, seen) {
  const sent = await toFile(Buffer.from(file, 'latin1'), 'batch.jsonl', { type: 'application/jsonl' });
  const { id } = await client.files.create({ file: sent, purpose: 'batch' });
  seen.text = Buffer.from(await (await client.files.content(id)).arrayBuffer()).toString('latin1');
}

async function models(_, seen) {
  seen.models = [];
  for await (const model of client.models.list()) seen.models.push(model.id);
  seen.models.sort();
}

async function embed({ model, texts }, seen) {
  const answer = await client.embeddings.create({ model, input: texts });
  seen.vectors = answer.data.map((entry) => entry.embedding);
  seen.total = answer.usage.total_tokens;
}

const ways = {
  completions: complete, chat, tools: chat, picture: chat, stray: chat, rounds, models, embed, embed_many: embed, responses: respond, hear, speak, draw, moderate,
  files,
};

await play(ways, (error) => (
  { class: error.constructor.name, message: String(error.message), status: error.status ?? null }
));
