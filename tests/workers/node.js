// A worker for Node. What is Ratoon's in it: fd 3, and the one line that says READY=1.
const http = require('node:http');
const { execFileSync } = require('node:child_process');

const server = http.createServer((request, response) => response.end(`pid ${process.pid} generation ${process.env.RATOON_GENERATION}`));
server.listen({ fd: 3 }, () => execFileSync('systemd-notify', ['--ready']));
// Stop accepting, answer what was accepted, and end with the last connection.
process.on('SIGTERM', () => server.close());
