// A drain without loss for Bun and Deno: `bun --preload ratoon-worker/web server.ts`, `deno run --preload npm:ratoon-worker/web server.ts`.
//
// Both stop a server by closing its idle connections at once, under requests that are on their way. So at SIGTERM a worker first says
// `Connection: close` with every answer, and stops its servers only after a grace. Until then it accepts, too: neither can stop
// accepting and keep its connections. Then the process ends. A program that handles SIGTERM itself must leave the end to this file.
//
// Covered: Bun.serve, Deno.serve, and servers of node:http. They cannot be handed a socket: the `bind` library does that (clients/bind).

import http from 'node:http';
import process from 'node:process';

/** For how long a worker says `Connection: close` before its servers stop, in milliseconds. */
const GRACE_MS = Number(process.env.RATOON_GRACE_MS ?? 5000);

/** Functions that stop one server each, and resolve when its requests are answered. */
const stops = [];
let draining = false;

/** A handler whose answers say `Connection: close` during the drain. */
function closing(handler) {
  const wrapped = async function (...request) {
    const response = await handler.apply(this, request);
    if (!draining || !(response instanceof Response)) return response;
    // The headers of a response may be immutable.
    const { status, statusText } = response;
    const headers = new Headers(response.headers);
    headers.set('Connection', 'close');
    return new Response(response.body, { status, statusText, headers });
  };
  // Deno makes no Request for a handler that names no parameter.
  return Object.defineProperty(wrapped, 'length', { value: handler.length });
}

/** The routes of Bun.serve: handlers, responses, or either by method. */
function closingRoutes(routes) {
  const wrap = (route) => {
    if (typeof route === 'function') return closing(route);
    if (route instanceof Response) return closing(() => route.clone());
    return route !== null && typeof route === 'object' ? closingRoutes(route) : route;
  };
  return Object.fromEntries(Object.entries(routes).map(([path, route]) => [path, wrap(route)]));
}

if (globalThis.Bun) {
  const serve = Bun.serve;
  Bun.serve = (options) => {
    const { fetch, routes } = options;
    const wrapped = { ...options };
    if (fetch) wrapped.fetch = closing(fetch);
    if (routes) wrapped.routes = closingRoutes(routes);
    const server = serve.call(Bun, wrapped);
    stops.push(() => server.stop());
    return server;
  };
} else if (globalThis.Deno) {
  const serve = Deno.serve;
  Deno.serve = (...args) => {
    const wrapped = args.map((arg) => {
      if (typeof arg === 'function') return closing(arg);
      return arg?.handler ? { ...arg, handler: closing(arg.handler) } : arg;
    });
    const server = serve.apply(Deno, wrapped);
    stops.push(() => server.shutdown());
    return server;
  };
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, ...args) {
  if (event === 'request' && draining) args[1].setHeader('Connection', 'close');
  if (event === 'listening') stops.push(() => new Promise((resolve) => this.close(resolve)));
  return emit.call(this, event, ...args);
};

process.on('SIGTERM', () => {
  if (draining) return;
  draining = true;
  setTimeout(() => Promise.allSettled(stops.map((stop) => stop())).then(() => process.exit(0)), GRACE_MS);
});
