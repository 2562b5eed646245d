'use strict';
// Makes an unmodified Node.js server a worker of Ratoon: `node --require ratoon-worker/adapter server.js`, or by NODE_OPTIONS.
//
// - `server.listen(3000)` of net, http, https, http2 and the frameworks on them takes a handed socket: the one of that port or
//   path, else the next one that nobody has taken. Port 0, and what is left over when all are taken, listens as written.
// - READY=1 is sent when a server listens on a handed socket.
// - At SIGTERM every such server drains without loss (drain.js), then the process ends, unless the program handles SIGTERM itself.
// - Connections and requests of HTTP servers are shown on the status page.
//
// A program that listens on descriptor 3 itself is left alone.

const childProcess = require('node:child_process');
const cluster = require('node:cluster');
const net = require('node:net');

const { drainable, graceMs } = require('./drain');
const { feedWatchdog, notify } = require('./notify');
const { Scoreboard } = require('./scoreboard');
const { handedSockets } = require('./sockets');

/**
 * More than any kernel's limit, which cuts it (listen(2)): the socket keeps the backlog that it was made with. Node.js takes it from the
 * second argument when the first one names a descriptor.
 */
const BACKLOG = 65535;

class Adapter {
  #free = handedSockets();
  #handed = this.#free.slice();
  #drains = [];
  #board = undefined;

  install() {
    if (this.#handed.length === 0 || cluster.isWorker) return;
    const adapter = this;
    const listen = net.Server.prototype.listen;
    net.Server.prototype.listen = function (...args) {
      const socket = adapter.#choose(wanted(args));
      if (!socket) return listen.apply(this, args);
      adapter.#adopt(this);
      const callback = args.findLast((arg) => typeof arg === 'function');
      return listen.call(this, { fd: socket.fd }, BACKLOG, callback);
    };
    this.#passSocketsToWrappedProgram();
  }

  /** The handed socket for what the program asked for, or undefined: it listens as written. */
  #choose(want) {
    if (!want || this.#free.length === 0) return undefined;
    if (want.fd !== undefined) {
      // The program takes its sockets itself.
      if (this.#handed.some(({ fd }) => fd === want.fd)) this.#free = [];
      return undefined;
    }
    if (want.port === 0) return undefined;
    const matches = (socket) => (want.path === undefined ? socket.port === want.port : socket.path === want.path);
    const socket = this.#free.find(matches) ?? (want.path === undefined ? this.#free[0] : undefined);
    this.#free = this.#free.filter((other) => other !== socket);
    return socket;
  }

  #adopt(server) {
    if (this.#board === undefined) {
      this.#board = Scoreboard.open();
      process.on('SIGTERM', () => this.#drain());
    }
    this.#drains.push({ server, drain: drainable(server, { graceMs: graceMs(this.#board), board: this.#board }) });
    server.once('listening', () => setImmediate(() => this.#ready()));
  }

  #ready() {
    if (this.#ready.said) return;
    this.#ready.said = true;
    notify({ READY: 1, X_RATOON_INFO: { node: process.version } });
    feedWatchdog();
  }

  #drain() {
    let open = this.#drains.length;
    for (const { server, drain } of this.#drains) {
      if (drain.begun) continue;
      drain.begin();
    }
    const programHandlesIt = process.listenerCount('SIGTERM') > 1;
    if (programHandlesIt) return;
    const ended = () => --open === 0 && process.exit();
    for (const { server } of this.#drains) {
      if (server._connections === 0 && !server.listening) setImmediate(ended);
      else server.once('close', ended);
    }
  }

  /**
   * A package manager's wrapper (`npm start`, `nodemon`) starts the program with its own three streams and no more: the handed
   * descriptors go along with a child that inherits all three, until this process has taken one itself.
   */
  #passSocketsToWrappedProgram() {
    const spawn = childProcess.ChildProcess.prototype.spawn;
    const descriptors = this.#handed.map(({ fd }) => fd);
    const page = Number(process.env.RATOON_SCOREBOARD);
    if (page) descriptors.push(page);
    const adapter = this;
    childProcess.ChildProcess.prototype.spawn = function (options) {
      const stdio = options?.stdio;
      const inheritsAll = stdio === 'inherit' || (Array.isArray(stdio) && stdio.length === 3 && stdio.every(isInherited));
      if (inheritsAll && adapter.#drains.length === 0) options.stdio = inheritedUpTo(descriptors);
      return spawn.call(this, options);
    };
  }
}

function isInherited(stream, index) {
  return stream === 'inherit' || stream === index || stream === [process.stdin, process.stdout, process.stderr][index];
}

/** The standard streams and `descriptors`, each under its own number. */
function inheritedUpTo(descriptors) {
  const stdio = ['inherit', 'inherit', 'inherit'];
  for (const fd of descriptors) {
    while (stdio.length < fd) stdio.push('ignore');
    stdio[fd] = fd;
  }
  return stdio;
}

/** What the arguments of net.Server.listen ask for: `{ port }`, `{ path }`, `{ fd }`, or undefined for a handle. */
function wanted(args) {
  const [first] = args;
  if (first === null || first === undefined || typeof first === 'function') return { port: 0 };
  if (typeof first === 'object') {
    if (first._handle || first.handle) return undefined;
    if (typeof first.fd === 'number') return { fd: first.fd >= 0 ? first.fd : undefined };
    if (first.path !== undefined && first.port === undefined) return { path: String(first.path) };
    return { port: Number(first.port ?? 0) };
  }
  if (typeof first === 'string' && !/^\d+$/.test(first)) return { path: first };
  return { port: Number(first) };
}

// Another copy may have been loaded before: by the command, where `worker.adapter` has loaded this one, or the other way round.
const installed = Symbol.for('ratoon.adapter');
if (!process[installed]) {
  process[installed] = true;
  new Adapter().install();
}
