'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');

test('deno_handler_keeps_its_number_of_parameters', async (t) => {
  let served;
  globalThis.Deno = { serve: (_options, handler) => ((served = handler), { shutdown() {} }) };
  t.after(() => delete globalThis.Deno);
  await import('../lib/web.mjs');
  Deno.serve({}, async (request) => new Response(request.url));
  // Deno makes no Request for a handler that names no parameter.
  assert.equal(served.length, 1);
  assert.equal(await (await served({ url: 'http://localhost/' })).text(), 'http://localhost/');
});
