'use strict';
// What the clients of this directory share: the arguments of benches/load (ADDRESS --new N --keep-alive N --rate PER_SECOND), a
// progress line every 100 ms, and the report at the end of standard input.

/** `ask(address, client, kept)` makes one request of a client and resolves to a kind of failure, or to undefined. */
function run(ask) {
  const [address, ...rest] = process.argv.slice(2);
  const number = (name) => (rest.includes(name) ? Number(rest[rest.indexOf(name) + 1]) : 0);
  const rate = number('--rate');
  const clients = number('--new') + number('--keep-alive');
  const counts = { new: { answered: 0, failures: {} }, kept: { answered: 0, failures: {} } };
  let over = 0;
  let failed = 0;
  let ended = false;

  async function client(id, kept) {
    const count = kept ? counts.kept : counts.new;
    const pause = (clients / rate) * 1000;
    let next = Date.now() + Math.random() * pause;
    while (!ended) {
      await new Promise((done) => setTimeout(done, Math.max(next - Date.now(), 0)));
      next = Math.max(next + pause, Date.now() - pause);
      const failure = await ask(address, id, kept);
      over += 1;
      if (failure) {
        failed += 1;
        count.failures[failure] = (count.failures[failure] ?? 0) + 1;
      } else {
        count.answered += 1;
      }
    }
  }

  const all = [];
  for (let id = 0; id < clients; id += 1) all.push(client(id, id >= number('--new')));
  const progress = setInterval(() => process.stderr.write(`requests ${over} failures ${failed}\n`), 100);
  process.stdin.resume().on('end', async () => {
    ended = true;
    await Promise.all(all);
    clearInterval(progress);
    const answered = counts.new.answered + counts.kept.answered;
    process.stdout.write(`${JSON.stringify({ answered, failed, classes: counts })}\n`, () => process.exit());
  });
}

module.exports = { run };
