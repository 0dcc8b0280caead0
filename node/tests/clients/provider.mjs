// An OpenID provider, npm's oidc-provider, for the test of logins by code: one client, which must use
// PKCE, one for terminals without a browser (RFC 8628), and people who are called whatever they say. Arguments: the folder with its packages, the folder
// with its certificate, its port, the client's secret, and where browsers are sent back to.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, work, port, secret, back] = process.argv.slice(2);
const entry = join(modules, 'oidc-provider', 'lib', 'index.js');
const { default: Provider } = await import(pathToFileURL(entry));

const provider = new Provider(`https://localhost:${port}`, {
  clients: [{
    client_id: 'conclave',
    client_secret: secret,
    application_type: 'native',
    token_endpoint_auth_method: 'client_secret_basic',
    grant_types: ['authorization_code'],
    response_types: ['code'],
    redirect_uris: [back],
  }, {
    client_id: 'terminal',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['urn:ietf:params:oauth:grant-type:device_code'],
    response_types: [],
    redirect_uris: [],
  }],
  features: { deviceFlow: { enabled: true } },
  pkce: { required: () => true },
  conformIdTokenClaims: false,
  claims: { openid: ['sub'], profile: ['preferred_username'], email: ['email'] },
  cookies: { keys: ['of a test'] },
  async findAccount(_context, id) {
    return {
      accountId: id,
      async claims() { return { sub: id, preferred_username: id, email: `${id}@example.com` }; },
    };
  },
});

const tls = { key: readFileSync(join(work, 'server.key')), cert: readFileSync(join(work, 'server.pem')) };
createServer(tls, provider.callback()).listen(Number(port), '127.0.0.1', () => {
  console.log('listening');
});
