'use strict';
// A drain that loses no request. A server that drains stops accepting, serves every connection that it has accepted, says
// `Connection: close` (HTTP/2: GOAWAY) with its next answer, and closes an idle connection only after a grace without a request.
// Node's own server.close() closes idle connections at once, under requests that are on their way.

const net = require('node:net');

/** An HTTP/2 stream id that no client has reached: GOAWAY with it announces the end without refusing a stream. */
const LAST_STREAM = 2 ** 31 - 1;
/** Between the announcement and the end of an HTTP/2 session: requests that were on their way have arrived by then. */
const HTTP2_NOTICE_MS = 1000;
/** How long a WebSocket connection that says nothing is kept during the drain. */
const WEBSOCKET_NOTICE_MS = 1000;
/** A WebSocket close frame with status 1001, going away (RFC 6455, section 7.4.1). */
const GOING_AWAY = Buffer.from([0x88, 0x02, 0x03, 0xe9]);

const drains = new WeakMap();

class Drain {
  #server;
  #graceMs;
  #board;
  #connections = new Map();
  #sessions = new Set();
  #webSockets = new Set();
  #lastSocket = null;
  #begun = false;

  /** `graceMs`: how long an idle connection is kept during the drain. `board`: where connections and requests are shown, or null. */
  constructor(server, { graceMs, board }) {
    this.#server = server;
    this.#graceMs = graceMs;
    this.#board = board;
    // A TLS server's requests arrive on the sockets that it makes when a handshake is done.
    const tls = typeof server.setSecureContext === 'function';
    const http2 = typeof server.updateSettings === 'function';
    server.prependListener(tls ? 'secureConnection' : 'connection', (socket) => this.#connected(socket));
    if (http2) server.prependListener('stream', (stream, headers) => this.#opensStream(stream, headers));
    // On an HTTP/2 server a listener of `request` changes how streams are served, so none is added to a program without one.
    if (!http2 || server.listenerCount('request') > 0) {
      server.prependListener('request', (request, response) => this.#requested(request, response));
    }
    server.prependListener('session', (session) => this.#opened(session));
    server.prependListener('upgrade', (request, socket) => this.#upgraded(request, socket));
    server.close = (callback) => this.#close(callback);
  }

  get begun() {
    return this.#begun;
  }

  /** Begins the drain; a second call does nothing. `callback` is called when the last connection has ended. */
  begin(callback) {
    if (callback) this.#server.once('close', callback);
    if (this.#begun) return;
    this.#begun = true;
    net.Server.prototype.close.call(this.#server);
    for (const [socket, connection] of this.#connections) {
      if (connection.response) this.#announce(connection);
      else this.#closeWhenIdle(socket, connection);
    }
    for (const session of this.#sessions) this.#endSession(session);
    for (const socket of this.#webSockets) this.#endWebSocket(socket);
  }

  /** What the program's own `server.close()` does, as net.Server.close documents it. */
  #close(callback) {
    if (!this.#begun && !this.#server.listening) {
      net.Server.prototype.close.call(this.#server, callback);
    } else {
      this.begin(callback);
    }
    return this.#server;
  }

  #connected(socket) {
    const connection = { shown: this.#board?.connection(socket), response: null, wantsKeepAlive: true, timer: null };
    this.#connections.set(socket, connection);
    this.#lastSocket = socket;
    socket.once('close', () => {
      clearTimeout(connection.timer);
      this.#connections.delete(socket);
    });
    if (this.#begun) this.#closeWhenIdle(socket, connection);
  }

  #requested(request, response) {
    const connection = this.#connections.get(request.socket);
    if (!connection) return; // HTTP/2: #opensStream
    clearTimeout(connection.timer);
    // A pipelined request: the connection stays until the last of them is answered.
    const previous = connection.response;
    if (this.#begun && previous && !previous.headersSent) previous.shouldKeepAlive = connection.wantsKeepAlive;
    connection.response = response;
    connection.wantsKeepAlive = response.shouldKeepAlive;
    if (this.#begun) this.#announce(connection);
    const shown = connection.shown?.begin(request);
    request[shownRequest] = shown;
    response.once('close', () => {
      this.#answered(shown, response.writableFinished, response.statusCode);
      if (connection.response !== response) return;
      connection.response = null;
      if (this.#begun) this.#closeWhenIdle(request.socket, connection);
    });
  }

  #opensStream(stream, headers) {
    const shown = stream.session?.[shownConnection]?.begin({
      method: headers[':method'], url: headers[':path'], httpVersionMajor: 2, httpVersionMinor: 0,
    });
    stream[shownRequest] = shown;
    stream.once('close', () => this.#answered(shown, stream.rstCode === 0, stream.sentHeaders?.[':status']));
  }

  /** Counts an answer by its class (responses_2xx and so on); one that was cut off is an error. */
  #answered(shown, finished, status) {
    shown?.end(finished);
    if (!this.#board) return;
    if (finished) this.#board.count(`responses_${Math.floor(status / 100)}xx`);
    else this.#board.count('errors');
  }

  /** `Connection: close` with the answer that is in work; a head that was sent already is followed by a grace instead. */
  #announce(connection) {
    if (!connection.response.headersSent) connection.response.shouldKeepAlive = false;
  }

  /** Closes the connection after a grace in which nothing arrived on it. */
  #closeWhenIdle(socket, connection) {
    const seen = socket.bytesRead;
    clearTimeout(connection.timer);
    connection.timer = setTimeout(() => {
      // What the kernel has received already is read in the next turn of the event loop.
      setImmediate(() => setImmediate(() => {
        if (connection.response || socket.destroyed) return;
        if (socket.bytesRead !== seen) this.#closeWhenIdle(socket, connection);
        else socket.end();
      }));
    }, this.#graceMs);
  }

  #opened(session) {
    this.#sessions.add(session);
    // A session is made while the event of its connection is told: the connection is the last one. Its socket is the session's now.
    const connection = this.#connections.get(this.#lastSocket);
    session[shownConnection] = connection?.shown;
    clearTimeout(connection?.timer);
    this.#connections.delete(this.#lastSocket);
    session.once('close', () => this.#sessions.delete(session));
    if (this.#begun) this.#endSession(session);
  }

  #endSession(session) {
    if (session.closed || session.destroyed) return;
    session.goaway(0, LAST_STREAM);
    setTimeout(() => session.destroyed || session.close(), HTTP2_NOTICE_MS);
  }

  #upgraded(request, socket) {
    const connection = this.#connections.get(socket);
    if (connection) clearTimeout(connection.timer);
    this.#connections.delete(socket);
    if (String(request.headers.upgrade).toLowerCase() !== 'websocket') return;
    this.#webSockets.add(socket);
    socket.once('close', () => this.#webSockets.delete(socket));
    if (this.#begun) setImmediate(() => this.#endWebSocket(socket));
  }

  /**
   * Sends a close frame: after the next message of the program, since a message of the peer that crosses the frame gets no answer; or
   * after a notice without one. The peer answers with a close frame of its own, and the program's library ends the connection.
   */
  #endWebSocket(socket) {
    if (!socket.writable || socket.bytesWritten === 0) return;
    const { write } = socket;
    let told = false;
    const tell = () => {
      clearTimeout(timer);
      if (told) return;
      told = true;
      socket.write = write;
      if (socket.writable) socket.write(GOING_AWAY);
    };
    const timer = setTimeout(tell, WEBSOCKET_NOTICE_MS);
    socket.write = (...args) => {
      // The message and the close frame leave in one piece: a peer that has read the message alone would send the next one. A library writes
      // the head of a frame and its payload in one turn.
      socket.cork();
      process.nextTick(() => {
        tell();
        socket.uncork();
      });
      return write.apply(socket, args);
    };
    socket.once('close', () => clearTimeout(timer));
  }
}

/** On a request: what shows its progress on the status page. */
const shownRequest = Symbol('ratoon.request');
/** On an HTTP/2 session: its connection on the status page. */
const shownConnection = Symbol('ratoon.connection');

/** Makes `server` (of node:net, http, https or http2) drain without loss; once for each server. */
function drainable(server, options) {
  let drain = drains.get(server);
  if (!drain) {
    drain = new Drain(server, options);
    drains.set(server, drain);
  }
  return drain;
}

/** How long an idle connection is kept during a drain, in milliseconds: 10 s, but at most half of `worker.stop_timeout`. */
function graceMs(board) {
  return Math.min(10000, (board?.stopTimeout ?? 30000) / 2);
}

module.exports = { drainable, graceMs, shownRequest };
