'use strict';
// A stand-in for the master: starts a program with a listening socket as descriptor 3, a status page, and a systemd-notify that
// writes what it is asked to say into a file.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { once } = require('node:events');

const ADAPTER = path.join(__dirname, '..', '..', 'lib', 'adapter.js');
const PAGE_BYTES = 256 * 1024;

/** A page as the master makes it: the first ten words of the header; `stopTimeoutMs` is word 9. */
function makePage(file, stopTimeoutMs) {
  const words = new BigUint64Array(PAGE_BYTES / 8);
  Buffer.from(words.buffer).write('RATOONSB', 'latin1');
  words.set([1n, BigInt(PAGE_BYTES), 512n, 32n, 4096n, 640n, 400n], 1);
  words[9] = BigInt(stopTimeoutMs) * 1000000n;
  fs.writeFileSync(file, Buffer.from(words.buffer));
}

class Worker {
  static async start(program, { stopTimeoutMs = 60000, command = [process.execPath, '--require', ADAPTER], env = {} } = {}) {
    const worker = new Worker();
    worker.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'ratoon-node-'));
    worker.said = path.join(worker.directory, 'said');
    fs.writeFileSync(worker.said, '');
    const notify = path.join(worker.directory, 'systemd-notify');
    fs.writeFileSync(notify, `#!/bin/sh\nfor word; do echo "$word" >> ${worker.said}; done\n`, { mode: 0o755 });
    const page = path.join(worker.directory, 'page');
    makePage(page, stopTimeoutMs);
    worker.page = fs.openSync(page, 'r+');
    const file = path.join(worker.directory, 'program.mjs');
    fs.writeFileSync(file, program);
    fs.symlinkSync(path.join(__dirname, '..', '..', 'node_modules'), path.join(worker.directory, 'node_modules'));
    const listener = net.createServer().listen(0, '127.0.0.1');
    await once(listener, 'listening');
    worker.port = listener.address().port;
    worker.child = spawn(command[0], [...command.slice(1), file], {
      env: {
        ...process.env, LISTEN_FDS: '1', LISTEN_PID: '1', RATOON_SCOREBOARD: '4', NOTIFY_SOCKET: '/nowhere',
        PATH: `${worker.directory}:${process.env.PATH}`, ...env,
      },
      stdio: ['ignore', 'pipe', 'inherit', listener._handle.fd, worker.page],
    });
    worker.exit = once(worker.child, 'exit');
    worker.output = '';
    worker.child.stdout.on('data', (part) => (worker.output += part));
    listener.close();
    return worker;
  }

  /** Waits until the worker has said `word`; fails after 10 s. */
  async hears(word) {
    await until(() => fs.readFileSync(this.said, 'utf8').split('\n').includes(word), `the worker says ${word}`);
  }

  /** A word of the page's header. */
  word(index) {
    const words = new BigUint64Array(1);
    fs.readSync(this.page, words, 0, 8, index * 8);
    return Number(words[0]);
  }

  /** The named counters of the page. */
  counters() {
    const counters = {};
    const bytes = Buffer.alloc(64);
    for (let index = 0; index < 32; index++) {
      fs.readSync(this.page, bytes, 0, 64, 512 + index * 64);
      if (bytes.readBigUInt64LE(0) !== 2n) continue;
      counters[bytes.subarray(16, 64).toString().replace(/\0.*/s, '')] = Number(bytes.readBigUInt64LE(8));
    }
    return counters;
  }

  /** The words of a connection's slot, and the texts in it. */
  slot(index) {
    const words = new BigUint64Array(80);
    fs.readSync(this.page, words, 0, 640, 4096 + index * 640);
    const bytes = Buffer.from(words.buffer);
    const shape = words[13];
    const text = (word, shift) => bytes.toString('utf8', word * 8, word * 8 + Number((shape >> shift) & 0xffffn));
    return {
      state: Number(words[0]), sequence: Number(words[1]), requests: Number(words[3]), request: Number(words[6]),
      method: bytes.toString('utf8', 128, 128 + Number(shape & 0xffn)), url: text(18, 32n), info: text(48, 48n),
    };
  }

  kill(signal = 'SIGTERM') {
    this.child.kill(signal);
  }

  async end() {
    this.child.kill('SIGKILL');
    await this.exit;
    fs.closeSync(this.page);
    fs.rmSync(this.directory, { recursive: true });
  }
}

/** Waits for a condition, looking every 10 ms; fails after 10 s. */
async function until(condition, what) {
  for (let tries = 0; tries < 1000; tries++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`not seen within 10 s: ${what}`);
}

/** One request on `agent`: resolves to status, headers and body. */
function get(port, requestPath = '/', agent = undefined) {
  return new Promise((resolve, reject) => {
    const request = http.get({ port, host: '127.0.0.1', path: requestPath, agent: agent ?? false }, (response) => {
      let body = '';
      response.on('data', (part) => (body += part));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
    });
    request.on('error', reject);
  });
}

module.exports = { Worker, until, get, ADAPTER };
