//! The relay's thread: reads the workers' pipes and passes their lines on to the sinks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::native::{Native, Source};
use super::sink::{PENDING_LAST, PENDING_MAX, Sink};
use super::{Command, HandedPipe, PIECE, RelayState, Shared, Sinks};
use crate::table::Table;

/// The longest line, bytes; a longer one is broken, as journald does.
const LINE_MAX: usize = 48 * 1024;
/// The most that is read from the pipe of a dead worker when its last lines are requested, bytes.
const DRAIN_MAX: usize = 1024 * 1024;
/// How long a hand-over waits for lines that the reader of the master's stdout or stderr does not take.
const LEAVES_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct Copier {
    shared: Arc<Shared>,
    sinks: Vec<Sink>,
    /// The pipes, by [`key`].
    pipes: Table<u64, Box<Pipe>>,
    /// The pipes that are closed soon, by the time of their closing.
    closing: VecDeque<(Instant, u64)>,
    flushes: Vec<std::sync::mpsc::Sender<()>>,
    /// A hand-over that was requested: the receiver of the state, and when it is sent at the latest.
    leaving: Option<(oneshot::Sender<RelayState>, Instant)>,
    buffer: Vec<u8>,
    grace: Duration,
    ended: bool,
    /// The name that the labels of all workers begin with.
    name: String,
}

struct Pipe {
    sink: u8,
    fd: OwnedFd,
    /// The slot, from the end of the label; `None` when it is not known.
    slot: Option<u32>,
    /// The line that has no line feed yet.
    line: Vec<u8>,
    /// Whether the worker was closed.
    closing: bool,
}

/// The limit for a worker is a kibibyte of the master's memory, and a worker has one or two of these.
const _: () = assert!(size_of::<Pipe>() <= 40);

/// The largest number of pipes of a worker.
const PIPES: u64 = 2;

/// The key of a pipe, from its worker and the pipe's index.
fn key(worker: u64, pipe: usize) -> u64 {
    worker * PIPES + pipe as u64 % PIPES
}

enum Read {
    Some(usize),
    Nothing,
    End,
}

impl Copier {
    pub fn new(shared: Arc<Shared>, (out, err): Sinks, native: Option<&Native>, grace: Duration) -> io::Result<Copier> {
        let sinks = std::iter::once(out).chain(err).map(|fd| Sink::new(fd, native.cloned())).collect::<io::Result<_>>()?;
        Ok(Copier {
            shared,
            sinks,
            pipes: Table::new(),
            closing: VecDeque::new(),
            flushes: Vec::new(),
            leaving: None,
            buffer: Vec::with_capacity(PIECE),
            grace,
            ended: false,
            name: String::new(),
        })
    }

    pub fn run(mut self) {
        while !self.ended {
            self.turn();
        }
    }

    /// Waits for an event, and does a bounded amount of work.
    fn turn(&mut self) {
        let (commands, readable) = self.wait();
        if commands {
            self.take_commands();
        }
        for sink in 0..self.sinks.len() {
            self.sinks[sink].write();
            if readable & (1 << sink) != 0 {
                self.read(sink);
                self.sinks[sink].write();
            }
        }
        self.close_late_ones();
        self.answer_flushes();
        self.leave();
    }

    /// Waits for a command, a readable pipe (of a sink that has room), or a writable sink (that has pending lines). Returns whether
    /// there are commands, and the sinks, as bits, that have readable pipes.
    fn wait(&mut self) -> (bool, u32) {
        let now = Instant::now();
        let leaving = self.leaving.as_ref().map(|(_, at)| *at);
        let next = self.closing.front().map(|(until, _)| *until).into_iter().chain(leaving).min();
        let timeout = next.and_then(|next| Timespec::try_from(next.saturating_duration_since(now)).ok());
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        for sink in &self.sinks {
            // A PollFd with no events still wakes on an error, so leave out sinks without pending lines below.
            fds.push(PollFd::new(
                &sink.epoll,
                if sink.has_room() && leaving.is_none() { PollFlags::IN } else { PollFlags::empty() },
            ));
        }
        for sink in self.sinks.iter().filter(|sink| !sink.pending.is_empty()) {
            fds.push(PollFd::new(&sink.fd, PollFlags::OUT));
        }
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return (false, 0);
        }
        let readable =
            (0..self.sinks.len()).filter(|n| fds[n + 1].revents().contains(PollFlags::IN)).fold(0, |bits, n| bits | 1 << n);
        (!fds[0].revents().is_empty(), readable)
    }

    fn take_commands(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let commands = std::mem::take(&mut *self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner));
        for command in commands {
            match command {
                Command::Open { worker, label, out, err } => {
                    self.add(worker, 0, out, &label);
                    if let Some(err) = err {
                        self.add(worker, 1, err, &label);
                    }
                }
                Command::Drain { worker, done } => {
                    self.drain(worker);
                    let _ = done.send(());
                }
                Command::Close { worker } => self.close(worker),
                Command::Flush { done } => {
                    self.drain_all();
                    self.flushes.push(done);
                }
                Command::HandOver { done } => self.leaving = Some((done, Instant::now() + LEAVES_WITHIN)),
                Command::TakeOver(handed) => self.take_over(handed),
                Command::End => self.ended = true,
            }
        }
    }

    fn add(&mut self, worker: u64, sink: u8, fd: OwnedFd, label: &str) {
        let key = key(worker, sink.into());
        let slot = self.slot(label);
        self.put(key, Pipe { sink, fd, slot, line: Vec::new(), closing: false });
    }

    /// The slot of this label, `NAME/SLOT`; the name is the same for all workers, and is kept once.
    fn slot(&mut self, label: &str) -> Option<u32> {
        let (name, slot) = label.rsplit_once('/')?;
        name.clone_into(&mut self.name);
        slot.parse().ok()
    }

    fn put(&mut self, key: u64, pipe: Pipe) {
        let data = epoll::EventData::new_u64(key);
        // If the epoll has no room (max_user_watches), the pipe is closed: the worker gets EPIPE and does not hang.
        if epoll::add(&self.sinks[usize::from(pipe.sink)].epoll, &pipe.fd, data, epoll::EventFlags::IN).is_ok() {
            if pipe.closing {
                self.closing.push_back((Instant::now() + self.grace, key));
            }
            self.pipes.insert(key, Box::new(pipe));
        }
    }

    /// One iteration: reads a piece from each readable pipe, as long as there is room.
    fn read(&mut self, sink: usize) {
        let room = PENDING_MAX.saturating_sub(self.sinks[sink].pending.len());
        // Pipes that are left out now come first the next time: the kernel moves reported ones to the end.
        let mut events = Vec::with_capacity((room / PIECE).clamp(1, 64));
        if epoll::wait(&self.sinks[sink].epoll, spare_capacity(&mut events), Some(&Timespec::default())).is_err() {
            return;
        }
        for event in events {
            let key = event.data.u64();
            if matches!(self.read_piece(key), Read::End) {
                self.remove(key);
            }
        }
    }

    /// Reads once from a pipe and passes on the complete lines.
    fn read_piece(&mut self, key: u64) -> Read {
        let Some(pipe) = self.pipes.get_mut(&key) else { return Read::End };
        self.buffer.clear();
        let bytes = match rustix::io::read(&pipe.fd, spare_capacity(&mut self.buffer)) {
            Ok(0) => return Read::End,
            Ok(bytes) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            Err(_) => return Read::End,
        };
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let room = LINE_MAX - pipe.line.len();
            let (end, skip) = match rest.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => (end, 1),
                None if rest.len() < room => {
                    pipe.line.extend_from_slice(rest);
                    break;
                }
                None => (room, 0),
            };
            pipe.line.extend_from_slice(&rest[..end]);
            pass_on(&self.shared, &mut self.sinks[usize::from(pipe.sink)], (&self.name, key), pipe);
            rest = &rest[end + skip..];
        }
        Read::Some(bytes)
    }

    /// Reads all that is in the pipes of this worker, up to [`DRAIN_MAX`] bytes each, and passes on a last line without a line feed.
    fn drain(&mut self, worker: u64) {
        for key in self.keys(worker) {
            let mut left = DRAIN_MAX;
            loop {
                match self.read_piece(key) {
                    Read::Some(bytes) if bytes < left => left -= bytes,
                    Read::Some(_) | Read::Nothing => break,
                    Read::End => {
                        self.remove(key);
                        break;
                    }
                }
            }
            if let Some(pipe) = self.pipes.get_mut(&key) {
                pass_on_rest(&self.shared, &mut self.sinks[usize::from(pipe.sink)], (&self.name, key), pipe);
            }
        }
    }

    /// Reads all that is in all pipes now, up to the size of a pipe each.
    fn drain_all(&mut self) {
        let keys: Vec<u64> = self.pipes.keys().copied().collect();
        for key in keys {
            for _ in 0..8 {
                match self.read_piece(key) {
                    Read::Some(_) => {}
                    Read::Nothing => break,
                    Read::End => {
                        self.remove(key);
                        break;
                    }
                }
            }
        }
    }

    fn close(&mut self, worker: u64) {
        self.shared.tails().remove(&worker);
        let until = Instant::now() + self.grace;
        for key in self.keys(worker) {
            if let Some(pipe) = self.pipes.get_mut(&key).filter(|pipe| !pipe.closing) {
                pipe.closing = true;
                self.closing.push_back((until, key));
            }
        }
    }

    fn close_late_ones(&mut self) {
        let now = Instant::now();
        // A pipe that has reached its end before is dropped from the list, too.
        while let Some((_, key)) = self.closing.pop_front_if(|(until, key)| *until <= now || !self.pipes.contains_key(key)) {
            self.remove(key);
        }
    }

    fn answer_flushes(&mut self) {
        if self.sinks.iter().all(|sink| sink.pending.is_empty()) {
            for done in self.flushes.drain(..) {
                let _ = done.send(());
            }
        }
    }

    /// Sends the state to the requester of the hand-over, once all lines are written or the time is up.
    fn leave(&mut self) {
        let written = self.sinks.iter().all(|sink| sink.pending.is_empty());
        let Some((done, _)) = self.leaving.take_if(|(_, at)| written || *at <= Instant::now()) else { return };
        self.closing.clear();
        let pipes = self.pipes.take().map(|(key, pipe)| HandedPipe {
            worker: key / PIPES,
            sink: pipe.sink.into(),
            fd: pipe.fd,
            label: label(&self.name, pipe.slot),
            line: pipe.line,
            closing: pipe.closing,
        });
        let handed = RelayState { pipes: pipes.collect(), pending: self.sinks.iter_mut().map(Sink::take_lines).collect() };
        match done.send(handed) {
            Ok(()) => self.ended = true,
            // The requester is gone: go on here.
            Err(handed) => self.take_over(handed),
        }
    }

    /// Goes on with the state of another thread or program.
    fn take_over(&mut self, handed: RelayState) {
        let last = self.sinks.len() - 1;
        for (number, pending) in handed.pending.into_iter().enumerate() {
            self.sinks[number.min(last)].prepend(pending);
        }
        for mut pipe in handed.pipes {
            pipe.line.truncate(LINE_MAX);
            let HandedPipe { worker, sink, fd, label, line, closing } = pipe;
            let slot = self.slot(&label);
            self.put(key(worker, sink), Pipe { sink: sink.min(last) as u8, fd, slot, line, closing });
        }
    }

    fn keys(&self, worker: u64) -> impl Iterator<Item = u64> + use<> {
        (0..PIPES as usize).map(move |pipe| key(worker, pipe))
    }

    /// Closes the reading end, which also removes the pipe from the epoll.
    fn remove(&mut self, key: u64) {
        if let Some(mut pipe) = self.pipes.remove(&key) {
            pass_on_rest(&self.shared, &mut self.sinks[usize::from(pipe.sink)], (&self.name, key), &mut pipe);
        }
    }
}

/// The label, like `web/3`.
fn label(name: &str, slot: Option<u32>) -> String {
    slot.map_or_else(|| name.to_owned(), |slot| format!("{name}/{slot}"))
}

fn pass_on_rest(shared: &Shared, sink: &mut Sink, whose: (&str, u64), pipe: &mut Pipe) {
    if !pipe.line.is_empty() {
        pass_on(shared, sink, whose, pipe);
    }
}

/// Passes the pipe's line to the sink and, unless the worker is closed, to the worker's tail.
fn pass_on(shared: &Shared, sink: &mut Sink, (name, key): (&str, u64), pipe: &mut Pipe) {
    if !pipe.closing {
        shared.tails().entry(key / PIPES).or_default().push(sink.message(&pipe.line));
    }
    if sink.pending.len() > PENDING_LAST {
        sink.lost += 1;
    } else if !sink.dead {
        let source = Source { worker: key / PIPES, slot: pipe.slot };
        sink.push(source, || label(name, pipe.slot), &pipe.line);
    }
    pipe.line.clear();
    // Free the memory of a long line, so that an idle worker costs little.
    pipe.line.shrink_to(1024);
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::master::output::relay::pipe;

    /// Eight workers write without end, each at first a line without a line feed, and the master's stderr has no reader.
    #[test]
    fn what_is_kept_is_bounded_whatever_is_printed() {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        let shared = Arc::new(Shared::new(wake));
        let (_unread, out) = rustix::pipe::pipe().expect("a pipe");
        let mut copier = Copier::new(Arc::clone(&shared), (out, None), None, Duration::ZERO).expect("a copier");
        let mut writers = Vec::new();
        for worker in 0..8 {
            let (read, write) = pipe().expect("a pipe");
            rustix::io::ioctl_fionbio(&write, true).expect("a pipe");
            shared.send(Command::Open { worker, label: String::new(), out: read, err: None });
            writers.push(write);
        }
        let mut written = 0;
        for turn in 0..2000 {
            let text = if turn < 500 { vec![b'x'; 4096] } else { b"0123456789abcde\n".repeat(256) };
            for writer in &writers {
                written += rustix::io::write(writer, &text).unwrap_or(0);
            }
            // Send a command each time, or an iteration would wait for ever once everything is full.
            shared.send(Command::Drain { worker: turn % 8, done: oneshot().0 });
            copier.turn();
            let pending = copier.sinks[0].pending.len();
            let lines: usize = copier.pipes.values().map(|pipe| pipe.line.capacity()).sum();
            // Requests for last lines read pipes even when there is no room, but only up to a limit.
            assert!(pending <= PENDING_LAST + LINE_MAX + 1, "{pending} bytes wait");
            assert!(lines <= 8 * 2 * LINE_MAX, "{lines} bytes of unfinished lines");
        }
        assert!(written > 8 * 65_536);
        assert!(copier.sinks[0].lost > 0, "the bound was reached");
        let kept: usize = shared.tails().values().flat_map(|tail| tail.raw()).map(|line| line.len()).sum();
        assert!(
            kept <= 8 * (super::super::super::HEAD_LINES + super::super::super::TAIL_LINES) * super::super::super::TAIL_LINE_MAX,
            "{kept}"
        );
    }

    fn oneshot() -> (tokio::sync::oneshot::Sender<()>, tokio::sync::oneshot::Receiver<()>) {
        tokio::sync::oneshot::channel()
    }

    /// Of sixteen pipes that are always full, none gives more than twice as much as another.
    #[test]
    fn pipes_are_read_in_turn() {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        let shared = Arc::new(Shared::new(wake));
        let null = std::fs::File::options().write(true).open("/dev/null").expect("/dev/null");
        let mut copier = Copier::new(Arc::clone(&shared), (null.into(), None), None, Duration::ZERO).expect("a copier");
        let mut writers = Vec::new();
        for worker in 0..16u64 {
            let (read, write) = pipe().expect("a pipe");
            rustix::io::ioctl_fionbio(&write, true).expect("a pipe");
            shared.send(Command::Open { worker, label: String::new(), out: read, err: None });
            writers.push((write, 0));
        }
        copier.turn();
        let text = [vec![b'x'; 1023], vec![b'\n']].concat();
        for _ in 0..400 {
            for (writer, written) in &mut writers {
                while let Ok(bytes) = rustix::io::write(&*writer, &text) {
                    *written += bytes;
                }
            }
            copier.turn();
        }
        let least = writers.iter().map(|(_, written)| *written).min().expect("writers");
        let most = writers.iter().map(|(_, written)| *written).max().expect("writers");
        assert!(least > 500_000 && most < 2 * least, "{least} … {most}");
    }
}
