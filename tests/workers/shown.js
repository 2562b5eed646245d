'use strict';
// A server that shows each request with what it is about, by the library of clients/node.
const http = require('node:http');

const ratoon = require('../../clients/node/lib');

const server = http.createServer((request, response) => {
  const asked = new URL(request.url, 'http://localhost').searchParams;
  ratoon.describe(request, { about: asked.get('about') });
  ratoon.count('asked');
  const answer = `pid ${process.pid} generation ${process.env.RATOON_GENERATION}`;
  setTimeout(() => response.end(answer), Number(asked.get('seconds')) * 1000);
});

ratoon.listen(server, 8080).then(() => {
  ratoon.info({ node: process.version });
  ratoon.ready();
});
