// The issuer: oidc-provider, client credentials, JWT access tokens (RFC 9068) that live TOKEN_LIFE_S seconds.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import process from 'node:process';

import Provider from 'oidc-provider';

const { CLIENT_ID, CLIENT_SECRET, RESOURCE, SCOPE, TOKEN_LIFE_S } = process.env;

function signingKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: 'e2e', use: 'sig', alg: 'RS256' };
}

function configuration() {
  const resourceServer = {
    scope: SCOPE,
    audience: RESOURCE,
    accessTokenFormat: 'jwt',
    jwt: { sign: { alg: 'RS256' } },
  };
  return {
    clients: [{
      client_id: CLIENT_ID,
      client_secret: CLIENT_SECRET,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      scope: SCOPE,
    }],
    jwks: { keys: [signingKey()] },
    scopes: [SCOPE],
    ttl: { ClientCredentials: Number(TOKEN_LIFE_S) },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => resourceServer },
    },
  };
}

let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = new Provider(issuer, configuration()).callback();
  console.log(`listening on ${issuer}`);
});
process.once('SIGTERM', () => process.exit(0));
