'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');

const { Worker, until, get } = require('./support/worker');
const { addressBytes } = require('../lib/scoreboard');
const { handedSockets } = require('../lib/sockets');
const ratoon = require('..');

const LIBRARY = JSON.stringify(path.join(__dirname, '..', 'lib', 'index.js'));

async function withProgram(program, body) {
  const worker = await Worker.start(`import ratoon from ${LIBRARY}; import http from 'node:http';\n${program}`, { command: [process.execPath] });
  try {
    await worker.hears('READY=1');
    await body(worker);
  } finally {
    await worker.end();
  }
}

test('listen_serves_shows_and_drains', () =>
  withProgram(
    `const server = http.createServer((request, response) => {
       ratoon.describe(request, { user: 'ada' }); ratoon.count('asked'); setTimeout(() => response.end('hello'), request.url === '/slow' ? 300 : 0);
     });
     await ratoon.listen(server, 8080); ratoon.whenDraining(() => console.log('draining')); await ratoon.ready();`,
    async (worker) => {
      const slow = get(worker.port, '/slow');
      await until(() => worker.slot(0).info, 'the request is described');
      const slot = worker.slot(0);
      assert.deepEqual([slot.url, slot.info, slot.state], ['/slow', '{"user":"ada"}', 2]);
      worker.kill();
      assert.equal((await slow).headers.connection, 'close');
      assert.deepEqual(await worker.exit, [0, null]);
      assert.equal(worker.output, 'draining\n');
      assert.equal(worker.counters().asked, 1);
    }));

test('status_info_and_leaving_are_said_in_order', () =>
  withProgram(
    `await ratoon.listen(http.createServer(), 8080); ratoon.status('warm\\nup'); ratoon.info({ a: 1 }); ratoon.leaving(); ratoon.ready();`,
    async (worker) => {
      const said = fs.readFileSync(worker.said, 'utf8').split('\n').filter(Boolean);
      assert.deepEqual(said, ['STATUS=warm up', 'X_RATOON_INFO={"a":1}', 'STOPPING=1', 'READY=1']);
    }));

test('middleware_describes_requests_of_express', () =>
  withProgram(
    `import express from 'express'; const app = express(); app.use(ratoon.express((request) => ({ path: request.path })));
     app.get('/who', (_, response) => setTimeout(() => response.send('ada'), 300));
     await ratoon.listen(http.createServer(app), 8080); ratoon.ready();`,
    async (worker) => {
      const answer = get(worker.port, '/who');
      await until(() => worker.slot(0).info, 'the request is described');
      assert.equal(worker.slot(0).info, '{"path":"/who"}');
      assert.equal((await answer).body, 'ada');
    }));

test('too_large_a_description_is_left_out', () =>
  withProgram(
    `const server = http.createServer((request, response) => {
       ratoon.describe(request, { text: 'x'.repeat(300) }); setTimeout(() => response.end(), 300);
     });
     await ratoon.listen(server, 8080); ratoon.ready();`,
    async (worker) => {
      const answer = get(worker.port);
      await until(() => worker.slot(0).state === 2, 'the request is in work');
      assert.equal(worker.slot(0).info, '');
      await answer;
    }));

test('server_status_is_read_from_the_control_socket', async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ratoon-node-'));
  const control = path.join(directory, 'control');
  const server = http.createServer((request, response) => response.end(JSON.stringify({ path: request.url, state: 'running' })));
  await new Promise((resolve) => server.listen(control, resolve));
  process.env.RATOON_CONTROL = control;
  try {
    assert.deepEqual(await ratoon.serverStatus(), { path: '/status', state: 'running' });
  } finally {
    delete process.env.RATOON_CONTROL;
    server.close();
    fs.rmSync(directory, { recursive: true });
  }
  await assert.rejects(ratoon.serverStatus(), /RATOON_CONTROL is not set/);
});

test('identity_is_null_without_a_master', () => {
  assert.equal(ratoon.identity({}), null);
  const env = { RATOON_INSTANCE: 'web', RATOON_GENERATION: '7', RATOON_WORKER: '12', RATOON_SLOT: '0' };
  assert.deepEqual(ratoon.identity(env), { instance: 'web', generation: 7, worker: 12, slot: 0 });
});

test('nothing_is_said_without_a_master', async () => {
  assert.equal(await ratoon.ready(), false);
  assert.deepEqual(handedSockets({}), []);
  ratoon.count('asked');
  ratoon.describe({}, {});
});

test('addresses_become_bytes_in_network_order', () => {
  assert.deepEqual(addressBytes('192.0.2.1'), [192, 0, 2, 1]);
  assert.deepEqual(addressBytes('2001:db8::1'), [0x20, 1, 0x0d, 0xb8, ...new Array(11).fill(0), 1]);
  assert.deepEqual(addressBytes('::'), new Array(16).fill(0));
  assert.deepEqual(addressBytes('fe80::1%eth0').slice(0, 2), [0xfe, 0x80]);
});
