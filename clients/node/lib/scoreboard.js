'use strict';
// The worker's status page: memory shared with the master, which reads it also when this process hangs or is dead.
//
// `RATOON_SCOREBOARD` is the number of its descriptor; the layout (version 1) is in clients/rust/src/scoreboard/mod.rs. Node.js cannot map memory, but
// the page is a file, so fs.writeSync writes at offsets. Numbers are 64-bit words in the machine's byte order.

const fs = require('node:fs');
const net = require('node:net');

const MAGIC = 'RATOONSB';
const VERSION = 1n;
const WORD = 8;

/** Words of the header. */
const PID = 8;
const STOP_TIMEOUT = 9;
const TOTALS = 16;
/** Indices of the totals, from word 16 on. */
const CONNECTIONS = 0;
const REQUESTS = 1;
const BYTES_READ = 2;
const BYTES_WRITTEN = 3;
const SLOTS_USED = 4;
const UNLISTED = 5;
/** Gauges: open connections without a slot, and those of them with a request in work. Index 6 stays 0: all is counted. */
const UNLISTED_OPEN = 7;
const UNLISTED_IN_WORK = 8;
/** Answers whose time was taken, the sum of the logarithms of their times, and that of the squares of these. */
const TIMED = 9;
const TIMED_LOGS = 10;
const TIMED_SQUARES = 11;

/** States of a connection. */
const FREE = 0n;
const IDLE = 1n;
const ACTIVE = 2n;
/** States of a request. */
const REQUEST = { processing: 1n, sending: 2n, finished: 3n, aborted: 4n };

const SLOT_BYTES = 640;
const COUNTER_BYTES = 64;
const COUNTER_NAME_BYTES = 48;

class Scoreboard {
  #fd;
  #header;
  #totals = new BigUint64Array(12);
  #freeSlots = [];
  #counters = new Map();
  #dirty = false;

  /** `fd`: the page's descriptor. Throws when it is no page of a version that is known, or when it has a writer already. */
  constructor(fd) {
    const header = new BigUint64Array(10);
    fs.readSync(fd, header, 0, header.byteLength, 0);
    if (Buffer.from(header.buffer, 0, 8).toString('latin1') !== MAGIC || header[1] !== VERSION) {
      throw new Error(`descriptor ${fd} is no status page of version ${VERSION}`);
    }
    if (header[PID] !== 0n) throw new Error(`the status page is written by process ${header[PID]} already`);
    this.#fd = fd;
    this.#header = header;
    this.#put(PID * WORD, BigUint64Array.of(BigInt(process.pid)));
    process.on('exit', () => this.flush());
  }

  /** The page of this worker, or `null`: without a master, or when another process writes it. */
  static open() {
    const fd = Number(process.env.RATOON_SCOREBOARD);
    if (!fd) return null;
    try {
      return new Scoreboard(fd);
    } catch {
      return null;
    }
  }

  /** How long a drain may take until the worker is killed, in milliseconds; `null` when the master does not say. */
  get stopTimeout() {
    const nanoseconds = this.#header[STOP_TIMEOUT];
    return nanoseconds ? Number(nanoseconds / 1000000n) : null;
  }

  /** Shows an accepted connection until its socket is closed. */
  connection(socket) {
    this.#totals[CONNECTIONS] += 1n;
    let slot = this.#freeSlots.pop();
    if (slot === undefined && this.#totals[SLOTS_USED] < this.#header[7]) slot = this.#totals[SLOTS_USED]++;
    if (slot === undefined) {
      this.#totals[UNLISTED] += 1n;
      this.#totals[UNLISTED_OPEN] += 1n;
    }
    const connection = new Connection(this, socket, slot);
    socket.once('close', () => {
      connection.close();
      if (slot !== undefined) this.#freeSlots.push(slot);
      else this.#totals[UNLISTED_OPEN] -= 1n;
    });
    return connection;
  }

  /** Adds to a named counter of the page: at most 32 names of at most 48 bytes; further ones are not shown. */
  count(name, by = 1) {
    const counter = this.#counters.get(name) ?? this.#newCounter(name);
    counter.total += BigInt(by);
    this.#touch();
  }

  #newCounter(name) {
    const counter = { total: 0n, offset: null };
    const bytes = Buffer.from(name);
    const index = [...this.#counters.values()].filter((known) => known.offset !== null).length;
    if (BigInt(index) < this.#header[4] && bytes.length <= COUNTER_NAME_BYTES) {
      counter.offset = Number(this.#header[3]) + index * COUNTER_BYTES;
      const words = new BigUint64Array(COUNTER_BYTES / WORD);
      Buffer.from(words.buffer).set(bytes, 2 * WORD);
      this.#put(counter.offset + WORD, words.subarray(1));
      this.#put(counter.offset, BigUint64Array.of(2n)); // it counts from now on
    }
    this.#counters.set(name, counter);
    return counter;
  }

  /** @internal */
  addRequest() {
    this.#totals[REQUESTS] += 1n;
    this.#touch();
  }

  /** @internal An answer was given after this time. */
  addTime(nanoseconds) {
    const log = BigInt(Math.min(640, Math.round(16 * Math.log2(Math.max(Number(nanoseconds) / 1000, 1)))));
    this.#totals[TIMED] += 1n;
    this.#totals[TIMED_LOGS] += log;
    this.#totals[TIMED_SQUARES] += log * log;
    this.#touch();
  }

  /** @internal */
  addBytes(read, written) {
    this.#totals[BYTES_READ] += read;
    this.#totals[BYTES_WRITTEN] += written;
    this.#touch();
  }

  /** @internal A connection without a slot has a request in work, or has none any more. */
  addUnlistedInWork(change) {
    this.#totals[UNLISTED_IN_WORK] += change;
    this.#touch();
  }

  /** @internal Writes the words of a slot; the guarded ones (from word 8 on) between an odd and an even sequence number. */
  writeSlot(slot, words, guarded) {
    const offset = Number(this.#header[5] + BigInt(slot) * this.#header[6]);
    if (guarded) {
      words[1] |= 1n;
      this.#put(offset, words);
      words[1] += 1n;
    }
    this.#put(offset, words.subarray(0, 8));
  }

  /** The totals are written once a turn of the event loop, not at each change. */
  #touch() {
    if (this.#dirty) return;
    this.#dirty = true;
    setImmediate(() => this.flush()).unref();
  }

  /** Writes totals and counters now. */
  flush() {
    this.#dirty = false;
    this.#put(TOTALS * WORD, this.#totals);
    for (const { total, offset } of this.#counters.values()) {
      if (offset !== null) this.#put(offset + WORD, BigUint64Array.of(total));
    }
  }

  #put(offset, words) {
    try {
      fs.writeSync(this.#fd, words, 0, words.byteLength, offset);
    } catch {
      // The page only shows; a worker serves without it, too.
    }
  }
}

/** One connection on the page. */
class Connection {
  #board;
  #socket;
  #slot;
  #bytes = new Uint8Array(SLOT_BYTES);
  #words = new BigUint64Array(this.#bytes.buffer);
  #family;
  #closed = false;

  constructor(board, socket, slot) {
    this.#board = board;
    this.#socket = socket;
    this.#slot = slot;
    const peer = (socket.remoteAddress ?? '').replace(/^::ffff:/, '');
    this.#family = BigInt(net.isIP(peer));
    if (this.#family) for (const word of [10, 14]) this.#bytes.set(addressBytes(peer), word * WORD);
    this.#words[8] = process.hrtime.bigint();
    this.#words[9] = this.#family | (BigInt(socket.remotePort ?? 0) << 16n);
    this.#write(IDLE, true);
  }

  /** A request begins; returns what shows its progress. `request`: method, url, httpVersionMajor, httpVersionMinor. */
  begin(request) {
    this.#board.addRequest();
    this.#words[3] += 1n;
    this.#words[6] = REQUEST.processing;
    const began = process.hrtime.bigint();
    this.#words[12] = began;
    let timed = false;
    const takeTime = () => {
      if (!timed) this.#board.addTime(process.hrtime.bigint() - began);
      timed = true;
    };
    const version = BigInt((request.httpVersionMajor ?? 1) * 10 + (request.httpVersionMinor ?? 1));
    const method = this.#text(16, 16, request.method ?? '');
    const url = this.#text(18, 240, request.url ?? '');
    const shape = method | (version << 8n) | (this.#family << 16n) | (url << 32n);
    this.#words[13] = shape;
    this.#write(ACTIVE, true);
    return {
      /** Shows a JSON object of at most 256 bytes with the request; a larger one is left out. */
      describe: (info) => {
        const text = JSON.stringify(info);
        const length = Buffer.byteLength(text) <= 256 ? this.#text(48, 256, text) : 0n;
        this.#words[13] = shape | (length << 48n);
        this.#write(ACTIVE, true);
      },
      sending: () => {
        takeTime();
        this.#words[6] = REQUEST.sending;
        this.#write(ACTIVE);
      },
      end: (finished) => {
        if (finished) takeTime();
        this.#words[6] = finished ? REQUEST.finished : REQUEST.aborted;
        this.#write(IDLE);
      },
    };
  }

  close() {
    this.#write(FREE);
    this.#closed = true;
  }

  #text(word, most, text) {
    return BigInt(new TextEncoder().encodeInto(text, this.#bytes.subarray(word * WORD, word * WORD + most)).written);
  }

  #write(state, guarded = false) {
    if (this.#closed) return;
    const [read, written] = [BigInt(this.#socket.bytesRead ?? 0), BigInt(this.#socket.bytesWritten ?? 0)];
    this.#board.addBytes(read - this.#words[4], written - this.#words[5]);
    if (this.#slot === undefined && (state === ACTIVE) !== (this.#words[0] === ACTIVE)) {
      this.#board.addUnlistedInWork(state === ACTIVE ? 1n : -1n);
    }
    this.#words[0] = state;
    this.#words[2] = state === IDLE ? process.hrtime.bigint() : 0n;
    this.#words[4] = read;
    this.#words[5] = written;
    if (this.#slot !== undefined) this.#board.writeSlot(this.#slot, this.#words, guarded);
  }
}

/** The 4 or 16 bytes of an address in network order. */
function addressBytes(address) {
  if (net.isIPv4(address)) return address.split('.').map(Number);
  const [head, tail] = address.split('%')[0].split('::');
  const groups = (part) => (part ? part.split(':').flatMap(group) : []);
  const group = (text) => {
    if (text.includes('.')) return text.split('.').map(Number);
    const value = parseInt(text, 16);
    return [value >> 8, value & 255];
  };
  const [first, second] = [groups(head), groups(tail)];
  return [...first, ...new Array(16 - first.length - second.length).fill(0), ...second];
}

module.exports = { Scoreboard, addressBytes };
