'use strict';
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const http2 = require('node:http2');
const https = require('node:https');
const net = require('node:net');
const { once } = require('node:events');
const { test } = require('node:test');

const { Worker, until, get, ADAPTER } = require('./support/worker');

const HELLO = `import http from 'node:http';
const server = http.createServer((request, response) => {
  if (request.url === '/slow') setTimeout(() => response.end('slow'), 500);
  else if (request.url === '/stream') { response.write('first'); setTimeout(() => response.end('last'), 500); }
  else response.end('hello');
});
server.listen(3000);
`;

/** The same program over TLS, with a certificate of its own. */
function secured(program) {
  const made = execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=localhost', '-keyout', '-', '-out', '-'],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const pem = JSON.stringify(made);
  return program.replace("'node:http'", "'node:https'").replace('createServer(', `createServer({ key: ${pem}, cert: ${pem} }, `);
}

/** What a request over TLS is answered. */
function getSecurely(port, path, agent) {
  return new Promise((resolve, reject) => {
    const request = https.get({ host: '127.0.0.1', port, path, agent }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text) => (body += text));
      response.on('end', () => resolve({ body, connection: response.headers.connection }));
    });
    request.on('error', reject);
  });
}

/** Runs `body` with a worker that says READY=1, and ends it. */
async function withWorker(program, body, options) {
  const worker = await Worker.start(program, options);
  try {
    await worker.hears('READY=1');
    await body(worker);
  } finally {
    await worker.end();
  }
}

test('listen_takes_the_handed_socket_and_says_ready', () =>
  withWorker(HELLO, async (worker) => {
    assert.equal((await get(worker.port)).body, 'hello');
    assert.equal(worker.word(8), worker.child.pid);
  }));

test('drain_answers_a_kept_connection_with_close', () =>
  withWorker(HELLO, async (worker) => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    assert.equal((await get(worker.port, '/', agent)).headers.connection, 'keep-alive');
    worker.kill();
    // The handed socket is closed in the worker when it stops accepting.
    await until(() => refused(worker.port), 'the worker stops accepting');
    const answer = await get(worker.port, '/', agent);
    assert.deepEqual([answer.body, answer.headers.connection], ['hello', 'close']);
    assert.deepEqual(await worker.exit, [0, null]);
  }));

test('drain_serves_a_request_in_work', () =>
  withWorker(HELLO, async (worker) => {
    const agent = new http.Agent({ keepAlive: true });
    const slow = get(worker.port, '/slow', agent);
    await until(() => worker.slot(0).state === 2, 'the request is in work');
    worker.kill();
    const answer = await slow;
    assert.deepEqual([answer.body, answer.headers.connection], ['slow', 'close']);
    assert.deepEqual(await worker.exit, [0, null]);
  }));

test('drain_keeps_a_connection_whose_head_was_sent', () =>
  withWorker(HELLO, async (worker) => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const streamed = get(worker.port, '/stream', agent);
    await until(() => worker.slot(0).state === 2, 'the request is in work');
    worker.kill();
    assert.equal((await streamed).headers.connection, 'keep-alive');
    const next = await get(worker.port, '/', agent);
    assert.deepEqual([next.body, next.headers.connection], ['hello', 'close']);
    assert.deepEqual(await worker.exit, [0, null]);
  }));

test('https_drain_serves_what_is_in_work_and_answers_a_kept_connection_with_close', () =>
  withWorker(secured(HELLO), async (worker) => {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 2, rejectUnauthorized: false });
    const [kept] = await Promise.all([getSecurely(worker.port, '/', agent), getSecurely(worker.port, '/', agent)]);
    assert.equal(kept.connection, 'keep-alive');
    const slow = getSecurely(worker.port, '/slow', agent);
    await until(() => worker.slot(0).state === 2 || worker.slot(1).state === 2, 'the request is in work');
    worker.kill();
    await until(() => refused(worker.port), 'the worker stops accepting');
    assert.deepEqual(await getSecurely(worker.port, '/', agent), { body: 'hello', connection: 'close' });
    assert.deepEqual(await slow, { body: 'slow', connection: 'close' });
    assert.deepEqual(await worker.exit, [0, null]);
  }));

test('drain_closes_an_idle_connection_after_the_grace', () =>
  withWorker(HELLO, async (worker) => {
    const socket = net.connect(worker.port, '127.0.0.1');
    await once(socket, 'connect');
    await until(() => worker.word(16) >= 1, 'the connection is accepted');
    worker.kill();
    socket.resume();
    await once(socket, 'end');
    assert.deepEqual(await worker.exit, [0, null]);
  }, { stopTimeoutMs: 1000 }));

test('drain_answers_every_pipelined_request', () =>
  withWorker(HELLO, async (worker) => {
    const socket = net.connect(worker.port, '127.0.0.1');
    let text = '';
    socket.on('data', (part) => (text += part));
    const head = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
    socket.write(head('/slow'));
    await until(() => worker.slot(0).state === 2, 'the request is in work');
    worker.kill();
    await until(() => refused(worker.port), 'the worker stops accepting');
    socket.write(head('/'));
    await once(socket, 'end');
    assert.equal(text.match(/HTTP\/1\.1 200/g)?.length, 2, text);
  }));

test('second_sigterm_changes_nothing', () =>
  withWorker(HELLO, async (worker) => {
    const slow = get(worker.port, '/slow');
    await until(() => worker.slot(0).state === 2, 'the request is in work');
    worker.kill();
    worker.kill();
    assert.equal((await slow).body, 'slow');
    assert.deepEqual(await worker.exit, [0, null]);
  }));

test('server_close_of_the_program_drains_too', () =>
  withWorker(
    `${HELLO} process.on('SIGTERM', () => server.close(() => { console.log('closed'); process.exit(7); }));`,
    async (worker) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      await get(worker.port, '/', agent);
      worker.kill();
      await until(() => refused(worker.port), 'the worker stops accepting');
      assert.equal((await get(worker.port, '/', agent)).headers.connection, 'close');
      assert.deepEqual(await worker.exit, [7, null]);
      assert.equal(worker.output, 'closed\n');
    }));

test('program_that_listens_on_descriptor_3_is_left_alone', async () => {
  const worker = await Worker.start(HELLO.replace('3000', '{ fd: 3 }'));
  try {
    await until(async () => (await get(worker.port).catch(() => ({}))).body === 'hello', 'the worker serves');
    assert.deepEqual([worker.word(8), fs.readFileSync(worker.said, 'utf8')], [0, '']);
    worker.kill();
    assert.deepEqual(await worker.exit, [null, 'SIGTERM']);
  } finally {
    await worker.end();
  }
});

test('second_server_listens_where_it_says', () =>
  withWorker(
    `${HELLO} const other = http.createServer((_, response) => response.end('other'));
     other.listen(0, '127.0.0.1', () => console.log(other.address().port));`,
    async (worker) => {
      await until(() => worker.output.endsWith('\n'), 'the other server listens');
      assert.equal((await get(Number(worker.output))).body, 'other');
      assert.equal((await get(worker.port)).body, 'hello');
    }));

test('page_shows_requests_and_counts_classes', () =>
  withWorker(
    `import http from 'node:http';
     http.createServer((request, response) => { response.statusCode = Number(request.url.slice(1)); response.end(); }).listen(80);`,
    async (worker) => {
      for (const status of [200, 204, 404, 503]) await get(worker.port, `/${status}`);
      await until(() => worker.word(17) === 4, 'four requests are counted');
      await until(() => worker.word(25) === 4, 'the times of four answers are taken');
      await until(() => worker.counters().responses_2xx === 2, 'the classes are counted');
      assert.deepEqual(worker.counters(), { responses_2xx: 2, responses_4xx: 1, responses_5xx: 1 });
      const slot = worker.slot(0);
      assert.deepEqual([slot.method, slot.url.slice(0, 1), slot.sequence % 2], ['GET', '/', 0]);
      assert.ok(worker.word(19) > 0);
    }));

test('request_that_its_client_leaves_is_an_error', () =>
  withWorker(HELLO, async (worker) => {
    const socket = net.connect(worker.port, '127.0.0.1');
    socket.write('GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until(() => worker.slot(0).state === 2, 'the request is in work');
    socket.destroy();
    await until(() => worker.counters().errors === 1, 'the error is counted');
  }));

test('http2_session_ends_with_goaway_and_loses_no_stream', () =>
  withWorker(
    `import http2 from 'node:http2';
     const server = http2.createServer();
     server.on('stream', (stream, headers) => setTimeout(() => { stream.respond({ ':status': 200 }); stream.end('hello'); },
       headers[':path'] === '/slow' ? 500 : 0));
     server.listen(3000);`,
    async (worker) => {
      const client = http2.connect(`http://127.0.0.1:${worker.port}`);
      const ask = (requestPath) => new Promise((resolve, reject) => {
        const stream = client.request({ ':path': requestPath });
        let body = '';
        stream.on('data', (part) => (body += part)).on('end', () => resolve(body)).on('error', reject);
      });
      assert.equal(await ask('/'), 'hello');
      const slow = ask('/slow');
      await until(() => worker.word(17) === 2, 'the request is in work');
      const goaway = once(client, 'goaway');
      worker.kill();
      await goaway;
      // A stream that was on its way when GOAWAY was sent.
      assert.deepEqual(await slow, 'hello');
      assert.deepEqual(await worker.exit, [0, null]);
    }));

test('websocket_is_told_to_go_elsewhere', () =>
  withWorker(
    `import http from 'node:http'; import { WebSocketServer } from 'ws';
     const server = http.createServer(); const sockets = new WebSocketServer({ server });
     sockets.on('connection', (socket) => socket.on('message', (text) => socket.send(String(text))));
     server.listen(3000);`,
    async (worker) => {
      const { WebSocket } = require('ws');
      const socket = new WebSocket(`ws://127.0.0.1:${worker.port}`);
      await once(socket, 'open');
      socket.send('hello');
      assert.equal(String((await once(socket, 'message'))[0]), 'hello');
      const closed = once(socket, 'close');
      worker.kill();
      assert.equal((await closed)[0], 1001);
      assert.deepEqual(await worker.exit, [0, null]);
    }));

test('websocket_gets_the_answer_that_is_in_work', () =>
  withWorker(
    `import http from 'node:http'; import { WebSocketServer } from 'ws';
     const server = http.createServer(); const sockets = new WebSocketServer({ server });
     sockets.on('connection', (socket) => socket.on('message', () => {
       socket.send('taken');
       setTimeout(() => socket.send('answer'), 300);
     }));
     server.listen(3000);`,
    async (worker) => {
      const { WebSocket } = require('ws');
      const socket = new WebSocket(`ws://127.0.0.1:${worker.port}`);
      await once(socket, 'open');
      const messages = [];
      const closed = once(socket, 'close');
      socket.send('work');
      await once(socket, 'message');
      socket.on('message', (text) => messages.push(String(text)));
      worker.kill();
      assert.equal((await closed)[0], 1001);
      assert.deepEqual(messages, ['answer']);
      assert.deepEqual(await worker.exit, [0, null]);
    }));

test('websocket_answer_and_close_leave_in_one_piece', () =>
  withWorker(
    `import http from 'node:http'; import { WebSocketServer } from 'ws';
     const server = http.createServer(); const sockets = new WebSocketServer({ server });
     sockets.on('connection', (socket) => socket.on('message', () => {
       socket.send('answer');
       // Other work of the same turn, in which the peer could send its next message.
       for (const end = Date.now() + 100; Date.now() < end;);
     }));
     server.listen(3000);`,
    async (worker) => {
      const { WebSocket } = require('ws');
      const socket = new WebSocket(`ws://127.0.0.1:${worker.port}`);
      await once(socket, 'open');
      worker.kill();
      await until(() => refused(worker.port), 'the worker stops accepting');
      const closed = once(socket, 'close');
      socket.send('work');
      assert.equal(String((await once(socket, 'message'))[0]), 'answer');
      await new Promise(setImmediate);
      assert.notEqual(socket.readyState, WebSocket.OPEN, 'the peer may send a message that nobody answers');
      assert.equal((await closed)[0], 1001);
      assert.deepEqual(await worker.exit, [0, null]);
    }));

for (const [framework, program] of Object.entries({
  express: `import express from 'express'; const app = express(); app.get('/', (_, response) => response.send('hello')); app.listen(3000);`,
  fastify: `import Fastify from 'fastify'; const app = Fastify(); app.get('/', async () => 'hello'); await app.listen({ port: 3000 });`,
  koa: `import Koa from 'koa'; const app = new Koa(); app.use((context) => { context.body = 'hello'; }); app.listen(3000);`,
})) {
  test(`${framework}_is_a_worker_unmodified`, () =>
    withWorker(program, async (worker) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      assert.equal((await get(worker.port, '/', agent)).body, 'hello');
      worker.kill();
      await until(() => refused(worker.port), 'the worker stops accepting');
      assert.equal((await get(worker.port, '/', agent)).headers.connection, 'close');
      assert.deepEqual(await worker.exit, [0, null]);
    }));
}

test('package_manager_passes_the_sockets_on', () =>
  withWorker(
    `import { spawn } from 'node:child_process'; import fs from 'node:fs';
     fs.writeFileSync(new URL('server.mjs', import.meta.url), ${JSON.stringify(HELLO)});
     spawn('/bin/sh', ['-c', 'exec node server.mjs'], { stdio: 'inherit', cwd: new URL('.', import.meta.url) });`,
    async (worker) => {
      assert.equal((await get(worker.port)).body, 'hello');
      assert.notEqual(worker.word(8), worker.child.pid);
      process.kill(worker.word(8), 'SIGTERM');
      await worker.exit;
    },
    { command: [process.execPath], env: { NODE_OPTIONS: `--require=${ADAPTER}` } }));

test('without_a_master_a_server_listens_as_written', async () => {
  const program = `import http from 'node:http';
    const server = http.createServer((_, response) => response.end('alone')).listen(0, '127.0.0.1', () => console.log(server.address().port));`;
  const worker = await Worker.start(program, { env: { LISTEN_FDS: '' } });
  try {
    await until(() => worker.output.endsWith('\n'), 'the server listens');
    assert.equal((await get(Number(worker.output))).body, 'alone');
  } finally {
    await worker.end();
  }
});

/** Whether nobody accepts at the port any more: with the worker's copy closed, the socket is gone. */
function refused(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.once('connect', () => (socket.destroy(), resolve(false))).once('error', () => resolve(true));
  });
}


test('probed_worker_takes_the_private_socket_for_its_address', () =>
  withWorker(HELLO, async (worker) => assert.equal((await get(worker.port)).body, 'hello'), {
    env: { RATOON_PROBE_ADDRESSES: '127.0.0.1:3000' },
  }));
