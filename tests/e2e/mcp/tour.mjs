// One client of the official TypeScript SDK that does everything a caller of MCP does, and prints what it saw as JSON.
//
//     node --input-type=module - PACKAGE ERA URL KEY SERVER_URL SECONDS < tour.mjs
//
// ERA is `legacy`, `auto` or a version. PACKAGE is `sdk`, the SDK of the handshake, or `client`, its successor, which knows both eras. See tour.py.

import process from 'node:process';

const [kind, era, url, key, server, seconds] = process.argv.slice(2);
const call = `tour-${process.pid}`;
const updated = [];

async function parts() {
  if (kind === 'client') {
    const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
    return { Client, Transport: StreamableHTTPClientTransport, notification: 'notifications/resources/updated' };
  }
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const { ResourceUpdatedNotificationSchema } = await import('@modelcontextprotocol/sdk/types.js');
  return { Client, Transport: StreamableHTTPClientTransport, notification: ResourceUpdatedNotificationSchema };
}

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

async function until(condition) {
  const end = Date.now() + 15_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within 15 s: ${condition}`);
    await pause(50);
  }
}

const recorded = (event) => async () => (await (await fetch(`${server}/events`)).json()).includes(event);

async function announced(client) {
  updated.length = 0;
  await client.callTool({ name: 'announce', arguments: { word: 'amber' } });
  await until(() => updated.length > 0);
  return updated[0];
}

// An older SDK takes the schema of the result before the options.
function callWith(client, request, options) {
  return kind === 'client' ? client.callTool(request, options) : client.callTool(request, undefined, options);
}

async function tour() {
  const { Client, Transport, notification } = await parts();
  const mode = /^\d/.test(era) ? { pin: era } : era;
  const client = new Client({ name: 'tour', version: '1' }, { versionNegotiation: { mode } });
  client.setNotificationHandler(notification, (message) => { updated.push(message.params.uri); });
  await client.connect(new Transport(new URL(url), { requestInit: { headers: { authorization: `Bearer ${key}` } } }));
  if (era !== 'legacy') await client.listen({ resourceSubscriptions: ['words://amber'] });
  const seen = { tools: (await client.listTools()).tools.map((tool) => tool.name).sort() };
  const prompt = await client.getPrompt({ name: 'greeting', arguments: { name: 'Ada' } });
  seen.prompt = prompt.messages[0].content.text;
  seen.resource = (await client.readResource({ uri: 'words://amber' })).contents[0].text;

  seen.progress = [];
  const onprogress = ({ progress }) => {
    seen.progress.push(progress);
    fetch(`${server}/release?call=${call}`, { method: 'POST' });
  };
  const stepped = { name: 'progress', arguments: { call, steps: 3 } };
  seen.progress.push((await callWith(client, stepped, { onprogress })).content[0].text);

  const leaving = new AbortController();
  const slow = callWith(client, { name: 'slow', arguments: { call } }, { signal: leaving.signal }).catch(() => null);
  await until(recorded(`began ${call}`));
  leaving.abort();
  await slow;
  await until(recorded(`cancelled ${call}`));
  seen.cancelled = true;

  seen.announced = await announced(client);
  if (era === 'legacy') {
    const interrupted = await client.callTool({ name: 'interrupted', arguments: { call: 'it' } });
    seen.continued = interrupted.content[0].text;
  }
  const end = Date.now() + 1000 * Number(seconds);
  let echoes = 0;
  while (Date.now() < end) {
    const text = `word ${echoes}`;
    const echoed = await client.callTool({ name: 'echo', arguments: { text } });
    if (echoed.content[0].text !== text) throw new Error(`another word: ${JSON.stringify(echoed)}`);
    echoes += 1;
    await pause(200);
  }
  seen.echoed = echoes > Number(seconds);
  seen.announced_at_the_end = await announced(client);
  await client.transport.terminateSession?.();
  await client.close();
  return seen;
}

console.log(JSON.stringify(await tour()));
process.exit(0);
