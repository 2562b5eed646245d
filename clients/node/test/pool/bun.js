// The worker in Bun that tests/lossless reloads.
Bun.serve({ hostname: '127.0.0.1', port: process.env.PORT, fetch: () => new Response('hello\n') });
