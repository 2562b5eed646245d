'use strict';
// Clients of a WebSocket server, with the arguments and the report of benches/load: a request is a message with its answer. A client
// that is told 1001 or 1012 connects again; a message that was sent before it was told so, and has no answer, is lost.

const { WebSocket } = require('ws');
const { run } = require('./clients');

const TIMEOUT_MS = 10000;
const sockets = new Map();

function connect(address) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${address}/`);
    socket.once('open', () => resolve(socket));
    socket.once('error', reject);
  });
}

async function ask(address, client, kept) {
  let socket = kept ? sockets.get(client) : undefined;
  if (!socket || socket.readyState !== WebSocket.OPEN) {
    socket = await connect(address);
    socket.on('error', () => {});
    sockets.set(client, socket);
  }
  const failure = await new Promise((resolve) => {
    const timer = setTimeout(() => resolve('timeout'), TIMEOUT_MS);
    const closed = (code) => done(`closed with ${code} before the answer`);
    const answered = () => done(undefined);
    const done = (outcome) => {
      clearTimeout(timer);
      socket.off('close', closed);
      socket.off('message', answered);
      resolve(outcome);
    };
    socket.once('close', closed);
    socket.once('message', answered);
    socket.send('hello');
  });
  if (!kept) socket.close();
  return failure;
}

run((address, client, kept) => ask(address, client, kept).catch((error) => error.code || error.message));
