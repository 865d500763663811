// An issuer without shared secrets: oidc-provider over TLS. Clients authenticate with a signed assertion
// (RS256, PS256, ES256) or with their certificate (RFC 8705). It is an upstream as well: POST /v1/chat/completions
// accepts only a JWT that is valid at that moment (RFC 9068, no leeway). GET /count returns calls and requests.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import process from 'node:process';

import { exportJWK, jwtVerify } from 'jose';
import Provider from 'oidc-provider';

const { FOLDER, RESOURCE, SCOPE, TOKEN_LIFE_S } = process.env;
const file = (name) => readFileSync(`${FOLDER}/${name}`);

const signing = generateKeyPairSync('rsa', { modulusLength: 2048 });
const shared = {
  grant_types: ['client_credentials'], redirect_uris: [], response_types: [], scope: SCOPE,
};

async function signer(alg, key) {
  const jwk = await exportJWK(createPublicKey(file(key)));
  return {
    ...shared,
    client_id: alg,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: alg,
    jwks: { keys: [{ ...jwk, alg, use: 'sig' }] },
  };
}

async function configuration() {
  const resourceServer = {
    scope: SCOPE, audience: RESOURCE, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
  };
  return {
    clients: [
      await signer('RS256', 'rsa.pem'),
      await signer('PS256', 'rsa.pem'),
      await signer('ES256', 'ec.pem'),
      {
        ...shared,
        client_id: 'mutual',
        token_endpoint_auth_method: 'tls_client_auth',
        tls_client_auth_san_dns: 'gatepass.example',
      },
    ],
    clientAuthMethods: ['private_key_jwt', 'tls_client_auth'],
    enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256', 'ES256'] },
    jwks: { keys: [{ ...signing.privateKey.export({ format: 'jwk' }), kid: 'e2e', use: 'sig', alg: 'RS256' }] },
    scopes: [SCOPE],
    ttl: { ClientCredentials: Number(TOKEN_LIFE_S) },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => resourceServer },
      mTLS: {
        enabled: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate(),
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === 'tls_client_auth_san_dns'
          && (ctx.socket.getPeerX509Certificate()?.subjectAltName ?? '').includes(`DNS:${expected}`),
      },
    },
  };
}

const calls = [];
const refused = [];
const tokens = {}; // the ids of the used tokens by client
let answer;
let issuer;

async function chat(request, response) {
  const sentToken = (request.headers.authorization ?? '').replace(/^Bearer /, '');
  response.setHeader('content-type', 'application/json');
  let claims;
  try {
    const wanted = { issuer, audience: RESOURCE, clockTolerance: 0 };
    claims = (await jwtVerify(sentToken, signing.publicKey, wanted)).payload;
  } catch (error) {
    refused.push(error.code ?? String(error));
    response.statusCode = 401;
    response.end(JSON.stringify({ error: { message: 'token is not alive' } }));
    return;
  }
  (tokens[claims.client_id] ??= new Set()).add(claims.jti);
  const message = { role: 'assistant', content: 'Hello.' };
  const choices = [{ index: 0, message, finish_reason: 'stop' }];
  response.end(JSON.stringify({ id: 'c', object: 'chat.completion', created: 1, model: 'm', choices }));
}

function handle(request, response) {
  if (request.url === '/count') {
    response.setHeader('content-type', 'application/json');
    const used = Object.fromEntries(Object.entries(tokens).map(([client, ids]) => [client, ids.size]));
    response.end(JSON.stringify({ calls, refused, tokens: used }));
    return;
  }
  if (request.url === '/v1/chat/completions') {
    request.resume().on('end', () => chat(request, response));
    return;
  }
  answer(request, response);
}

const server = createServer({
  key: file('server.key'), cert: file('server.pem'), ca: file('ca.pem'), requestCert: true, rejectUnauthorized: false,
}, handle);
server.listen(0, '127.0.0.1', async () => {
  issuer = `https://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, await configuration());
  provider.on('grant.success', ({ oidc }) => {
    calls.push({ grant: oidc.params.grant_type, client: oidc.client.clientId });
  });
  answer = provider.callback();
  console.log(`listening on ${issuer}`);
});
process.once('SIGTERM', () => process.exit(0));
