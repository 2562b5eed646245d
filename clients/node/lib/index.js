'use strict';
// What a worker of Ratoon links: sockets, readiness, drain, and what it is doing. Each call does nothing where the program runs
// without a master, so the same program runs alone.

const http = require('node:http');

const { drainable, graceMs, shownRequest } = require('./drain');
const { feedWatchdog, notify, supervised } = require('./notify');
const { Scoreboard } = require('./scoreboard');
const { handedSockets } = require('./sockets');

let board;
let stopping = false;
const onDrain = new Set();
const drains = [];

/** The status page of this process, or null. */
function page() {
  if (board === undefined) board = Scoreboard.open();
  return board;
}

/**
 * Makes `server` listen on the handed socket (the first, or the one named `name`), else on `fallback` (what server.listen takes),
 * drain at SIGTERM without loss, and show its connections and requests. Resolves to the server when it listens.
 */
function listen(server, fallback, { name } = {}) {
  const sockets = handedSockets();
  const socket = name === undefined ? sockets[0] : sockets.find((candidate) => candidate.name === name);
  track(server);
  drains.push(drainable(server, { graceMs: graceMs(page()), board: page() }));
  beginDrainAtSigterm();
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    // The backlog is more than any kernel's limit, which cuts it: the socket keeps the one that it was made with.
    server.listen(...(socket ? [{ fd: socket.fd }, 65535] : [fallback]), () => {
      server.off('error', reject);
      resolve(server);
    });
  });
}

/** Shows the connections and requests of `server`, without making it drain at SIGTERM. */
function track(server) {
  drainable(server, { graceMs: graceMs(page()), board: page() });
  return server;
}

let handlesSigterm = false;
function beginDrainAtSigterm() {
  if (handlesSigterm) return;
  handlesSigterm = true;
  process.on('SIGTERM', drain);
}

/** Begins the drain, as SIGTERM does: the servers of `listen` end when their connections have ended. */
function drain() {
  if (stopping) return;
  stopping = true;
  for (const callback of onDrain) callback();
  for (const server of drains) server.begin();
}

/** Whether the drain has begun. */
function draining() {
  return stopping;
}

/** Calls `callback` when the drain begins: stop timers and consumers there, so that the process can end. */
function whenDraining(callback) {
  beginDrainAtSigterm();
  if (stopping) callback();
  else onDrain.add(callback);
}

/** Says READY=1: this worker serves. Feeds the watchdog from then on. */
function ready() {
  feedWatchdog();
  return notify({ READY: 1 });
}

/** Says STATUS=, a line that `ratoon status` shows. */
function status(text) {
  return notify({ STATUS: text });
}

/** Says STOPPING=1: this worker leaves by its own will, and a replacement starts at once. */
function leaving() {
  return notify({ STOPPING: 1 });
}

/** Shows a JSON object of at most 3 KiB as the worker's `info`. */
function info(object) {
  return notify({ X_RATOON_INFO: object });
}

/** Adds to a running total that is summed over the pool. At most 32 names. */
function count(name, by = 1) {
  page()?.count(name, by);
}

/** Shows a JSON object of at most 256 bytes with a request (of node:http, Express, `request.raw` of Fastify, `ctx.req` of Koa). */
function describe(request, object) {
  (request[shownRequest] ?? request.stream?.[shownRequest])?.describe(object);
}

/** Who this worker is, or null without a master. */
function identity(env = process.env) {
  if (env.RATOON_INSTANCE === undefined) return null;
  return {
    instance: env.RATOON_INSTANCE,
    generation: Number(env.RATOON_GENERATION),
    worker: Number(env.RATOON_WORKER),
    slot: Number(env.RATOON_SLOT),
  };
}

/** The status document of the whole pool (docs/contract.md §6). */
function serverStatus() {
  const socketPath = process.env.RATOON_CONTROL;
  if (!socketPath) return Promise.reject(new Error('RATOON_CONTROL is not set: this process has no master'));
  return new Promise((resolve, reject) => {
    const request = http.get({ socketPath, path: '/status', agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part) => (text += part));
      response.on('end', () => {
        try {
          resolve(JSON.parse(text));
        } catch (error) {
          reject(new Error(`GET /status at ${socketPath}: HTTP ${response.statusCode}: ${error.message}`));
        }
      });
    });
    request.on('error', reject);
  });
}

/** Middleware for Express: `describe(request)` returns the object that is shown with each request. */
function express(about) {
  return (request, _response, next) => {
    describe(request, about(request));
    next();
  };
}

/** Middleware for Koa, as `express`. */
function koa(about) {
  return (context, next) => {
    describe(context.req, about(context));
    return next();
  };
}

/** A hook for Fastify: `app.addHook('onRequest', fastify(about))`. */
function fastify(about) {
  return (request, _reply, done) => {
    describe(request.raw, about(request));
    done();
  };
}

module.exports = {
  supervised, handedSockets, listen, track, drain, draining, whenDraining, ready, status, leaving, info, count, describe, identity,
  serverStatus, notify, express, koa, fastify,
};
