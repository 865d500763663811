// The issuer of callers' tokens: oidc-provider with four signing algorithms. A service that is called after one of them
// gets a JWT access token (RFC 9068) signed with it by client credentials. `agent` gets tokens that gatepass accepts for
// AGENT_LIFE_S. People sign in at `desktop` without a password (authorization code with PKCE), and get an ID token.
// Its clock is BEHIND_S behind. POST /rotate replaces all signing keys.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import process from 'node:process';

import Provider from 'oidc-provider';

const { CLIENT_SECRET, RESOURCE, SCOPE, AGENT_LIFE_S, BEHIND_S } = process.env;
const LEEWAY_S = 30; // of gatepass
const LIFE_S = 600;
const KEYS = {
  RS256: ['rsa', { modulusLength: 2048 }],
  PS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
};
const ALGORITHMS = Object.keys(KEYS);

const SystemDate = Date;
globalThis.Date = class extends SystemDate {
  constructor(...given) { super(...(given.length ? given : [Date.now()])); }
  static now() { return SystemDate.now() - 1000 * Number(BEHIND_S); }
};

function signingKeys(generation) {
  return ALGORITHMS.map((alg) => {
    const { privateKey } = generateKeyPairSync(...KEYS[alg]);
    return { ...privateKey.export({ format: 'jwk' }), kid: `${alg}-${generation}`, use: 'sig', alg };
  });
}

function configuration(issuer, generation) {
  const service = {
    client_secret: CLIENT_SECRET,
    token_endpoint_auth_method: 'client_secret_post',
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    scope: SCOPE,
  };
  return {
    clients: [
      ...ALGORITHMS.map((alg) => ({ ...service, client_id: alg })),
      { ...service, client_id: 'agent' },
      {
        client_id: 'desktop',
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code'],
        response_types: ['code'],
        redirect_uris: [`${issuer}/callback`],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    jwks: { keys: signingKeys(generation) },
    scopes: ['openid', SCOPE],
    claims: { openid: ['sub', 'roles', 'preferred_username'] },
    findAccount: (ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, roles: ['llm-user'], preferred_username: `${id}@corp.example` }),
    }),
    extraTokenClaims: () => ({ roles: ['llm-batch'] }),
    enabledJWA: { idTokenSigningAlgValues: ALGORITHMS },
    ttl: {
      ClientCredentials: (ctx, token, client) => (
        client.clientId === 'agent' ? Number(AGENT_LIFE_S) + Number(BEHIND_S) - LEEWAY_S : LIFE_S
      ),
      IdToken: LIFE_S, Session: LIFE_S, Interaction: LIFE_S, Grant: LIFE_S, AccessToken: LIFE_S,
    },
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource, client) => ({
          scope: SCOPE,
          audience: RESOURCE,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: ALGORITHMS.includes(client.clientId) ? client.clientId : 'RS256' } },
        }),
      },
    },
  };
}

let answer;
let generation = 0;

function rotate(issuer) {
  generation += 1;
  answer = new Provider(issuer, configuration(issuer, generation)).callback();
}

const server = createServer((request, response) => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  if (request.url === '/rotate') {
    rotate(issuer);
    response.end();
  } else if (request.url.startsWith('/callback')) {
    response.end();
  } else {
    answer(request, response);
  }
});
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  rotate(issuer);
  console.log(`listening on ${issuer}`);
});
process.once('SIGTERM', () => process.exit(0));
