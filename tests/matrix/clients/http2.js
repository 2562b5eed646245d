'use strict';
// Clients of an HTTP/2 server without TLS, with the arguments and the report of benches/load. --new: a session for each request.
// A refused stream (REFUSED_STREAM, or above the GOAWAY's last stream) was not processed and is asked again once (RFC 9113, section 8.7).

const http2 = require('node:http2');
const { run } = require('./clients');

const TIMEOUT_MS = 10000;
const sessions = new Map();

function session(address, client, kept) {
  let current = kept && sessions.get(client);
  if (!current || current.closed || current.destroyed || current.leaving) {
    current = http2.connect(`http://${address}`);
    current.on('error', () => {});
    current.on('goaway', () => (current.leaving = true));
    sessions.set(client, current);
  }
  return current;
}

function ask(address, client, kept) {
  return new Promise((resolve) => {
    const current = session(address, client, kept);
    let status = 0;
    let body = '';
    let refused = false;
    let stream;
    try {
      stream = current.request({ ':path': '/' });
    } catch (error) {
      resolve({ failure: error.code });
      return;
    }
    stream.setTimeout(TIMEOUT_MS, () => stream.close(http2.constants.NGHTTP2_CANCEL));
    stream.setEncoding('utf8');
    stream.on('response', (headers) => (status = headers[':status']));
    stream.on('data', (text) => (body += text));
    stream.on('error', () => {});
    stream.on('close', () => {
      refused = stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM;
      if (!kept) current.close();
      if (status === 200 && body === 'hello\n') resolve({});
      else resolve({ retry: refused, failure: `status ${status}, code ${stream.rstCode}` });
    });
  });
}

run(async (address, client, kept) => {
  let outcome = await ask(address, client, kept);
  if (outcome.retry) {
    sessions.delete(client);
    outcome = await ask(address, client, kept);
  }
  return outcome.failure;
});
