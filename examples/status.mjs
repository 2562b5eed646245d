// A server for Node whose connections and requests Ratoon shows: `command = ["node", "status.mjs"]`.
//
// `Shown` is for any server of node:http. It writes the page that a worker inherits (its layout is in the documentation of
// `ratoon::scoreboard`) with fs.writeSync at offsets: Node has neither datagram sockets nor mmap, but the page is a file.
// What is said once, that this worker is ready and what it is, goes by systemd-notify.
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';

const page = Number(process.env.RATOON_SCOREBOARD); // NaN: the program runs alone
const head = new BigUint64Array(9);
if (page) fs.readSync(page, head, 0, head.byteLength, 0);
const ours = Buffer.from(head.buffer, 0, 8).toString() === 'RATOONSB' && head[1] === 1n && head[8] === 0n;
const put = (offset, words) => ours && fs.writeSync(page, words, 0, words.byteLength, Number(offset));
put(8 * 8, BigUint64Array.of(BigInt(process.pid))); // from now on the page has a writer
// Connections, requests, bytes read, written, slots used, connections without a slot, what is not counted (nothing), open
// connections without a slot, and of those with a request in work.
const totals = new BigUint64Array(9);
const [free, encoder] = [[], new TextEncoder()];

class Shown {
  constructor(socket) {
    [this.socket, this.bytes, this.slot] = [socket, new Uint8Array(640), free.pop() ?? (totals[4] < head[7] ? totals[4]++ : undefined)];
    this.words = new BigUint64Array(this.bytes.buffer);
    const unlisted = this.slot === undefined ? 1n : 0n;
    [totals[0], totals[5], totals[7]] = [totals[0] + 1n, totals[5] + unlisted, totals[7] + unlisted];
    const peer = (socket.remoteAddress ?? '').replace('::ffff:', '');
    this.family = net.isIPv4(peer) ? 4n : 0n; // this example shows no address of IPv6
    for (const word of [10, 14]) if (this.family) this.bytes.set(peer.split('.'), word * 8);
    this.words.set([process.hrtime.bigint(), this.family | (BigInt(socket.remotePort ?? 0) << 16n)], 8);
    this.write(1n, true);
    socket.once('close', () => ((totals[7] -= unlisted), this.write(0n), this.slot !== undefined && free.push(this.slot)));
  }
  /** Writes the slot; `state`: 0n free, 1n idle, 2n active; `all`: with the words that the sequence guards. */
  write(state, all) {
    const [read, written] = [BigInt(this.socket.bytesRead), BigInt(this.socket.bytesWritten)];
    [totals[2], totals[3]] = [totals[2] + read - this.words[4], totals[3] + written - this.words[5]];
    [this.words[0], this.words[2]] = [state, state === 1n ? process.hrtime.bigint() : 0n];
    [this.words[4], this.words[5]] = [read, written];
    put(16 * 8, totals);
    if (this.slot === undefined) return;
    const place = head[5] + this.slot * head[6];
    if (all) {
      this.words[1]++; // odd while it is written
      put(place + 8n, this.words.subarray(1, 2));
      put(place + 64n, this.words.subarray(8));
      this.words[1]++;
    }
    put(place, this.words.subarray(0, 8));
  }
  begin(request, response) {
    const room = (word, most) => this.bytes.subarray(word * 8, word * 8 + most);
    const text = (word, most, of) => BigInt(encoder.encodeInto(of, room(word, most)).written);
    const unlisted = this.slot === undefined ? 1n : 0n;
    [totals[1], totals[8]] = [totals[1] + 1n, totals[8] + unlisted];
    [this.words[3], this.words[6], this.words[12]] = [this.words[3] + 1n, 1n, process.hrtime.bigint()];
    const version = BigInt(request.httpVersionMajor * 10 + request.httpVersionMinor);
    const shape = text(16, 16, request.method) | (version << 8n) | (this.family << 16n) | (text(18, 240, request.url) << 32n);
    request.about = (object) => this.write(2n, (this.words[13] = shape | (text(48, 256, JSON.stringify(object)) << 48n)));
    request.about({});
    response.once('close', () => ((totals[8] -= unlisted), (this.words[6] = response.writableFinished ? 3n : 4n), this.write(1n)));
  }
}

const server = http.createServer((request, response) => {
  request.socket.shown.begin(request, response);
  const asked = new URL(request.url, 'http://localhost').searchParams;
  request.about({ about: asked.get('about'), session: process.env.USER });
  if (stopping) response.setHeader('Connection', 'close');
  const answer = `pid ${process.pid} generation ${process.env.RATOON_GENERATION}`;
  setTimeout(() => response.end(answer), Number(asked.get('seconds')) * 1000);
});
server.on('connection', (socket) => (socket.shown = new Shown(socket)));
server.listen(process.env.LISTEN_FDS ? { fd: 3 } : 8080, () => {
  if (process.env.NOTIFY_SOCKET) execFile('systemd-notify', ['--ready', `X_RATOON_INFO=${JSON.stringify({ node: process.version })}`]);
});
let stopping = false;
process.once('SIGTERM', () => {
  stopping = true; // answers say so; server.close() would also close idle connections, under requests on their way
  net.Server.prototype.close.call(server);
  setTimeout(() => server.closeIdleConnections(), 5000).unref();
});
