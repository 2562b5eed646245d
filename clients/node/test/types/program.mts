// Compiled, not run: the declarations fit a program that uses everything.
import http from 'node:http';
import http2 from 'node:http2';
import * as ratoon from '../../lib/index.js';

const server = http.createServer((request, response) => {
  ratoon.describe(request, { user: 'ada' });
  ratoon.count('asked', 2);
  response.end();
});
const listening: http.Server = await ratoon.listen(server, { port: 8080 }, { name: 'web' });
await ratoon.listen(http2.createServer(), '/run/web.sock');
ratoon.track(listening);
ratoon.whenDraining(() => ratoon.draining());
const sent: boolean = await ratoon.ready();
await ratoon.status(`ready: ${sent}`);
await ratoon.info({ version: 1 });
await ratoon.leaving();
const slot: number | undefined = ratoon.identity()?.slot;
const port: number | null = ratoon.handedSockets()[0].port;
const document: Record<string, unknown> = await ratoon.serverStatus();
ratoon.koa((context: { req: http.IncomingMessage }) => ({ url: context.req.url }));
ratoon.fastify((request: { raw: http.IncomingMessage }) => ({ url: request.raw.url }));
console.log(slot, port, document, ratoon.supervised());
