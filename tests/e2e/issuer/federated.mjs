// An issuer without secrets, for tokens that other programs make: oidc-provider validates the client's assertion (RFC
// 7523), and jose the assertions and subjects of the grants jwt-bearer (RFC 7523) and token-exchange (RFC 8693). It is
// an upstream as well: POST /v1/chat/completions accepts only a JWT that is valid at that moment.
// GET /count returns the granted forms, without tokens. POST /clock/SECONDS sets how far its clock is ahead.

import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import process from 'node:process';

import { exportJWK, jwtVerify, SignJWT } from 'jose';
import Provider, { errors } from 'oidc-provider';

const { KEY_FILE, RESOURCE, SCOPE, TOKEN_LIFE_S } = process.env;
const GRANTS = 'urn:ietf:params:oauth:grant-type:';
const TYPES = 'urn:ietf:params:oauth:token-type:';

let aheadMs = 0;
const SystemDate = Date;
globalThis.Date = class extends SystemDate {
  constructor(...given) { super(...(given.length ? given : [SystemDate.now() + aheadMs])); }
  static now() { return SystemDate.now() + aheadMs; }
};

const signing = generateKeyPairSync('rsa', { modulusLength: 2048 });
const clientKey = createPublicKey(readFileSync(KEY_FILE));
const granted = [];
const served = {};
let answer;
let issuer;

function configuration(jwk) {
  const resourceServer = {
    scope: SCOPE, audience: RESOURCE, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
  };
  return {
    clients: [{
      client_id: 'workload',
      grant_types: ['client_credentials', `${GRANTS}jwt-bearer`, `${GRANTS}token-exchange`],
      redirect_uris: [],
      response_types: [],
      scope: SCOPE,
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256',
      jwks: { keys: [{ ...jwk, alg: 'ES256', use: 'sig' }] },
    }],
    clientAuthMethods: ['private_key_jwt'],
    enabledJWA: { clientAuthSigningAlgValues: ['ES256'] },
    jwks: { keys: [{ ...signing.privateKey.export({ format: 'jwk' }), kid: 'e2e', use: 'sig', alg: 'RS256' }] },
    scopes: [SCOPE],
    ttl: { ClientCredentials: Number(TOKEN_LIFE_S) },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => resourceServer },
    },
  };
}

async function verified(token, key, expected) {
  try {
    return (await jwtVerify(token, key, { ...expected, clockTolerance: 0, requiredClaims: ['exp', 'sub'] })).payload;
  } catch (error) {
    throw new errors.InvalidGrant(`${error.code}: ${error.message}`);
  }
}

async function grant(ctx, next, subject, extra) {
  const token = new SignJWT({ scope: ctx.oidc.params.scope, act: { sub: 'workload' } })
    .setProtectedHeader({ alg: 'RS256', kid: 'e2e' })
    .setIssuer(issuer).setSubject(subject).setAudience([RESOURCE, 'models']).setIssuedAt()
    .setExpirationTime(`${TOKEN_LIFE_S}s`);
  ctx.body = { access_token: await token.sign(signing.privateKey), expires_in: Number(TOKEN_LIFE_S), ...extra };
  await next();
}

function register(provider) {
  // RFC 7523 3 allows it: a Kubernetes token is presented until it is rotated.
  provider.ReplayDetection.unique = async () => true;
  provider.registerGrantType(`${GRANTS}jwt-bearer`, async (ctx, next) => {
    const expected = { issuer: 'workload', subject: 'svc-llm', audience: `${issuer}/token` };
    const { sub } = await verified(ctx.oidc.params.assertion, clientKey, expected);
    await grant(ctx, next, sub, { token_type: 'Bearer' });
  }, ['assertion', 'scope']);
  const names = ['subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'resource', 'scope'];
  provider.registerGrantType(`${GRANTS}token-exchange`, async (ctx, next) => {
    const { params } = ctx.oidc;
    if (params.subject_token_type !== `${TYPES}access_token`) throw new errors.InvalidRequest('subject_token_type');
    if (params.requested_token_type !== `${TYPES}jwt`) throw new errors.InvalidRequest('requested_token_type');
    if (params.audience !== 'models' || params.resource !== RESOURCE) throw new errors.InvalidTarget('audience');
    const expected = { issuer: 'workload', subject: 'svc-llm', audience: `${issuer}/token` };
    const { sub } = await verified(params.subject_token, clientKey, expected);
    await grant(ctx, next, sub, { token_type: 'N_A', issued_token_type: `${TYPES}jwt` });
  }, names, ['resource']);
  provider.on('grant.success', ({ oidc }) => {
    const { grant_type: kind, client_assertion_type: type, resource } = oidc.params;
    granted.push({ grant: kind.replace(GRANTS, ''), type, resource });
  });
}

async function chat(request, response) {
  response.setHeader('content-type', 'application/json');
  const sentToken = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  try {
    const { payload } = await jwtVerify(sentToken, signing.publicKey, { issuer, audience: RESOURCE });
    served[payload.sub ?? payload.client_id] = (served[payload.sub ?? payload.client_id] ?? 0) + 1;
  } catch (error) {
    response.statusCode = 401;
    response.end(JSON.stringify({ error: { message: `token is not alive: ${error.code}` } }));
    return;
  }
  const message = { role: 'assistant', content: 'Hello.' };
  const choices = [{ index: 0, message, finish_reason: 'stop' }];
  response.end(JSON.stringify({ id: 'c', object: 'chat.completion', created: 1, model: 'm', choices }));
}

function handle(request, response) {
  response.setHeader('date', new Date().toUTCString());
  if (request.url === '/count') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ granted, served }));
  } else if (request.url.startsWith('/clock/')) {
    aheadMs = 1000 * Number(request.url.slice('/clock/'.length));
    response.end();
  } else if (request.url === '/v1/chat/completions') {
    request.resume().on('end', () => chat(request, response));
  } else {
    answer(request, response);
  }
}

const server = createServer(handle);
server.listen(0, '127.0.0.1', async () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration(await exportJWK(clientKey)));
  register(provider);
  answer = provider.callback();
  console.log(`listening on ${issuer}`);
});
process.once('SIGTERM', () => process.exit(0));
