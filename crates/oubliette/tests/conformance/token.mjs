// The suite has no option for a token. Loaded before it, this sends the one in TOKEN with every request that it makes:
// by `fetch`, which its clients use, by its own copy of undici, and by Node itself.

import http from 'node:http';
import { createRequire } from 'node:module';

const authorization = `Bearer ${process.env.TOKEN}`;

const { fetch } = globalThis;
globalThis.fetch = (input, init = {}) => {
  const headers = new Headers(init.headers);
  headers.set('authorization', authorization);
  return fetch(input, { ...init, headers });
};

const { request } = http;
http.request = (options, ...rest) =>
  request({ ...options, headers: { ...options.headers, authorization } }, ...rest);

const undici = createRequire(process.argv[1])('undici');
undici.setGlobalDispatcher(
  new undici.Agent().compose((dispatch) => (options, handler) => {
    const headers = Array.isArray(options.headers)
      ? options.headers
      : { ...options.headers, authorization };
    return dispatch({ ...options, headers }, handler);
  })
);
