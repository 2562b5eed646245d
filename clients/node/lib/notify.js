'use strict';
// Messages to the master, as in sd_notify(3). Node.js has no Unix datagram sockets, so systemd-notify(1) sends them: the master
// accepts messages from every process of the worker.

const { spawn } = require('node:child_process');

/** Messages are sent one after the other, so that they arrive in their order. */
let last = Promise.resolve();
let failureTold = false;

/** Whether a master listens: `NOTIFY_SOCKET` is set. */
function supervised() {
  return Boolean(process.env.NOTIFY_SOCKET);
}

/**
 * Sends assignments, like `{ READY: 1 }`. An object as value is sent as JSON.
 *
 * Resolves to whether they were sent: `false` without a master, and when systemd-notify cannot be run, which is said once on
 * standard error.
 */
function notify(assignments) {
  if (!supervised()) return Promise.resolve(false);
  const words = Object.entries(assignments).map(([key, value]) => `${key}=${format(value)}`);
  last = last.then(() => run(words));
  return last;
}

function format(value) {
  return typeof value === 'object' ? JSON.stringify(value) : String(value).replaceAll('\n', ' ');
}

function run(words) {
  return new Promise((resolve) => {
    const { NODE_OPTIONS, ...env } = process.env;
    const child = spawn('systemd-notify', words, { env, stdio: 'ignore' });
    child.once('error', (error) => {
      if (!failureTold) {
        failureTold = true;
        console.error(`ratoon-worker: cannot tell the master ${words[0]}: systemd-notify: ${error.message}; install it (package systemd)`);
      }
      resolve(false);
    });
    child.once('exit', (code) => resolve(code === 0));
  });
}

/** Sends `WATCHDOG=1` at half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) advises, while the event loop runs. */
function feedWatchdog() {
  const microseconds = Number(process.env.WATCHDOG_USEC);
  if (!supervised() || !(microseconds > 0)) return;
  notify({ WATCHDOG: 1 });
  setInterval(() => notify({ WATCHDOG: 1 }), microseconds / 2000).unref();
}

module.exports = { supervised, notify, feedWatchdog };
