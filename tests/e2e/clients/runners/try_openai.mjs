// The `openai` client for Node.

import process from 'node:process';

import OpenAI, { toFile } from 'openai';

const { runAll } = await import(`${process.env.RUNNERS}/harness.mjs`);
const client = new OpenAI({ maxRetries: 0, timeout: 20_000 });

function firstMessages({ kind, question, picture }) {
  const parts = [{ type: 'text', text: question }, { type: 'image_url', image_url: { url: picture } }];
  return [{ role: 'user', content: kind === 'picture' ? parts : question }];
}

function members({ kind, model, temperature, max_tokens, tool, picture }) {
  const made = { model, temperature, max_tokens };
  if (kind === 'tools' || kind === 'rounds') {
    made.tools = [{ type: 'function', function: tool }];
    made.parallel_tool_calls = true;
  }
  if (kind === 'extra_parameter') made.images = [picture];
  return made;
}

// Returns the message of one reply. The client's own helper aggregates streams.
async function chatOnce(scenario, messages, result) {
  const body = { ...members(scenario), messages };
  let answer;
  if (scenario.streams) {
    const stream = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
    for await (const _ of stream);
    answer = await stream.finalChatCompletion();
  } else {
    answer = await client.chat.completions.create(body);
  }
  const [{ message, finish_reason }] = answer.choices;
  result.text = message.content || null;
  result.finish = finish_reason;
  result.total = answer.usage?.total_tokens ?? null;
  for (const { id, function: { name, arguments: made } } of message.tool_calls ?? []) {
    result.calls = [...(result.calls ?? []), { id, name, arguments: JSON.parse(made) }];
  }
  return message;
}

async function chat(scenario, result) {
  await chatOnce(scenario, firstMessages(scenario), result);
}

async function rounds(scenario, result) {
  const messages = firstMessages(scenario);
  for (let round = 0; round <= scenario.rounds; round += 1) {
    const { content, tool_calls: calls } = await chatOnce(scenario, messages, result);
    if (!calls?.length) return;
    messages.push({ role: 'assistant', content, tool_calls: calls });
    for (const { id, function: { arguments: made } } of calls) {
      const { a, b } = JSON.parse(made);
      messages.push({ role: 'tool', tool_call_id: id, content: String(a + b) });
    }
  }
}

async function complete({ model, question, temperature, max_tokens, streams }, result) {
  const body = { model, prompt: question, temperature, max_tokens };
  let chunks;
  if (streams) chunks = await client.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
  else chunks = [await client.completions.create(body)];
  result.text = '';
  for await (const chunk of chunks) {
    result.total = chunk.usage?.total_tokens ?? result.total;
    for (const choice of chunk.choices) {
      result.text += choice.text;
      result.finish = choice.finish_reason ?? result.finish;
    }
  }
}

async function respond({ model, question, temperature, streams }, result) {
  const body = { model, input: question, temperature };
  let answer = null;
  if (streams) {
    for await (const event of await client.responses.create({ ...body, stream: true })) {
      if (event.type === 'response.completed') answer = event.response;
    }
    result.text = answer.output[0].content[0].text;
  } else {
    answer = await client.responses.create(body);
    result.text = answer.output_text;
  }
  result.total = answer.usage.total_tokens;
}

async function transcribe({ model }, result) {
  const file = await toFile(Buffer.from('RIFF    WAVE'), 'question.wav', { type: 'audio/wav' });
  result.text = (await client.audio.transcriptions.create({ model, file })).text;
}

async function synthesizeSpeech({ model }, result) {
  const answer = await client.audio.speech.create({ model, voice: 'alloy', input: 'Hi' });
  result.text = Buffer.from(await answer.arrayBuffer()).toString('latin1');
}

async function generateImage({ model, question }, result) {
  result.text = (await client.images.generate({ model, prompt: question })).data[0].b64_json;
}

async function moderate({ model, question }, result) {
  result.text = (await client.moderations.create({ model, input: question })).results[0].flagged ? 'flagged' : 'fine';
}

async function files({ file }, result) {
  const sent = await toFile(Buffer.from(file, 'latin1'), 'batch.jsonl', { type: 'application/jsonl' });
  const { id } = await client.files.create({ file: sent, purpose: 'batch' });
  result.text = Buffer.from(await (await client.files.content(id)).arrayBuffer()).toString('latin1');
}

async function models(_, result) {
  result.models = [];
  for await (const model of client.models.list()) result.models.push(model.id);
  result.models.sort();
}

async function embed({ model, texts }, result) {
  const answer = await client.embeddings.create({ model, input: texts });
  result.vectors = answer.data.map((entry) => entry.embedding);
  result.total = answer.usage.total_tokens;
}

const handlers = {
  completions: complete, chat, tools: chat, picture: chat, extra_parameter: chat, rounds, models, embed, embed_many: embed, responses: respond, transcribe,
  synthesize_speech: synthesizeSpeech, generate_image: generateImage, moderate,
  files,
};

await runAll(handlers);
