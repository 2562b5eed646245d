import type { IncomingMessage, Server as HttpServer } from 'node:http';
import type { Http2ServerRequest, Http2SecureServer, Http2Server } from 'node:http2';
import type { ListenOptions, Server } from 'node:net';

/** A listening socket that the master hands over. */
export interface HandedSocket {
  fd: number;
  /** Its name in LISTEN_FDNAMES. */
  name: string;
  /** The TCP port, or null. */
  port: number | null;
  /** The path of a Unix socket, or null. */
  path: string | null;
}

/** Who a worker is; the words of ratoon(1). */
export interface Identity {
  instance: string;
  generation: number;
  worker: number;
  slot: number;
}

type AnyServer = Server | HttpServer | Http2Server | Http2SecureServer;
type AnyRequest = IncomingMessage | Http2ServerRequest;

/** Whether a master listens to this process. */
export function supervised(): boolean;
/** The handed sockets in their order. */
export function handedSockets(env?: NodeJS.ProcessEnv): HandedSocket[];
/** Listens on the handed socket, else on `fallback`; drains at SIGTERM without loss; shows connections and requests. */
export function listen<S extends AnyServer>(server: S, fallback: number | string | ListenOptions, options?: { name?: string }): Promise<S>;
/** Shows the connections and requests of a server. */
export function track<S extends AnyServer>(server: S): S;
/** Begins the drain, as SIGTERM does. */
export function drain(): void;
/** Whether the drain has begun. */
export function draining(): boolean;
/** Calls back when the drain begins. */
export function whenDraining(callback: () => void): void;
/** Says READY=1. Resolves to whether it was sent. */
export function ready(): Promise<boolean>;
/** Says STATUS=. */
export function status(text: string): Promise<boolean>;
/** Says STOPPING=1: a replacement starts at once. */
export function leaving(): Promise<boolean>;
/** Shows a JSON object of at most 3 KiB as the worker's info. */
export function info(object: object): Promise<boolean>;
/** Adds to a running total that is summed over the pool. */
export function count(name: string, by?: number): void;
/** Shows a JSON object of at most 256 bytes with a request. */
export function describe(request: AnyRequest, object: object): void;
/** Who this worker is, or null without a master. */
export function identity(env?: NodeJS.ProcessEnv): Identity | null;
/** The status document of the whole pool. */
export function serverStatus(): Promise<Record<string, unknown>>;
/** Sends assignments, as in sd_notify(3). */
export function notify(assignments: Record<string, string | number | object>): Promise<boolean>;
/** Middleware for Express. */
export function express<R extends AnyRequest>(about: (request: R) => object): (request: R, response: unknown, next: () => void) => void;
/** Middleware for Koa. */
export function koa<C extends { req: AnyRequest }>(about: (context: C) => object): (context: C, next: () => Promise<void>) => Promise<void>;
/** An onRequest hook for Fastify. */
export function fastify<R extends { raw: AnyRequest }>(about: (request: R) => object): (request: R, reply: unknown, done: () => void) => void;
