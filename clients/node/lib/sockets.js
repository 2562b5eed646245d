'use strict';
// The listening sockets that the master hands over (sd_listen_fds(3)): descriptors from 3 on, `LISTEN_FDS` of them.

const fs = require('node:fs');

const FIRST = 3;

/**
 * The handed sockets in their order: `{ fd, name, port, path }`. `port` (TCP) or `path` (Unix) as the kernel tells them, else null.
 *
 * `LISTEN_PID` is not compared: a wrapper such as `npm start` passes the sockets on to a child. A descriptor that is no socket is
 * left out instead.
 */
function handedSockets(env = process.env) {
  const count = Number(env.LISTEN_FDS) || 0;
  const names = (env.LISTEN_FDNAMES ?? '').split(':');
  const addresses = count > 0 ? listeningAddresses() : new Map();
  // A probed worker has private sockets that stand in for these addresses.
  const probed = (env.RATOON_PROBE_ADDRESSES ?? '').split(' ');
  const sockets = [];
  for (let index = 0; index < count; index++) {
    const inode = socketInode(FIRST + index);
    if (inode === null) continue;
    const address = publicAddress(probed[index]) ?? addresses.get(inode);
    sockets.push({ fd: FIRST + index, name: names[index] ?? '', port: null, path: null, ...address });
  }
  return sockets;
}

/** `{ port }` or `{ path }` of an address as the master writes it: `127.0.0.1:8080`, `[::]:80`, `/run/x.sock`. */
function publicAddress(text = '') {
  if (text.startsWith('/')) return { path: text };
  const port = /:(\d+)$/.exec(text);
  return port ? { port: Number(port[1]) } : undefined;
}

function socketInode(fd) {
  try {
    const stat = fs.fstatSync(fd);
    return stat.isSocket() ? stat.ino : null;
  } catch {
    return null;
  }
}

/** Ports and paths by inode, from proc_net(5). */
function listeningAddresses() {
  const addresses = new Map();
  for (const table of ['tcp', 'tcp6']) {
    for (const fields of rows(table)) addresses.set(Number(fields[9]), { port: parseInt(fields[1].split(':')[1], 16) });
  }
  for (const fields of rows('unix')) if (fields[7]) addresses.set(Number(fields[6]), { path: fields.slice(7).join(' ') });
  return addresses;
}

function rows(table) {
  try {
    const lines = fs.readFileSync(`/proc/self/net/${table}`, 'utf8').split('\n').slice(1);
    return lines.filter(Boolean).map((line) => line.trim().split(/\s+/));
  } catch {
    return [];
  }
}

module.exports = { handedSockets, FIRST };
