//! The terminal: taken, given back, and what comes from it. Law: raw mode and the other screen end with [`Screen`], with
//! a panic, and before the process is stopped; nothing here knows what is drawn.

use std::io;
use std::thread;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event as Input, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, enable_raw_mode};
use ratatui::{DefaultTerminal, Frame};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{Signal as Watched, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::sys::thread::STACK;

/// Why the view ended.
pub(super) enum End {
    /// By its key.
    Left,
    /// By a signal of this number.
    Signal(u8),
}

/// The terminal, while it is ours.
pub(super) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal; a panic gives it back before it says what it has to say.
    pub(super) fn enter() -> Result<Self, String> {
        Ok(Screen { terminal: ratatui::try_init().map_err(|error| cannot("take the terminal", &error))? })
    }

    /// Draws one picture.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> Result<(), String> {
        self.terminal.draw(picture).map(drop).map_err(|error| cannot("draw", &error))
    }

    /// Gives the terminal to the shell until that lets us go on, as Ctrl-Z does elsewhere.
    pub(super) fn suspend(&mut self) -> Result<(), String> {
        self.leave();
        // Here it stops, and goes on with the next line.
        kill_process(getpid(), Signal::TSTP).map_err(|error| cannot("stop", &error.into()))?;
        self.enter_again()
    }

    /// Takes the terminal again after somebody else had it.
    pub(super) fn enter_again(&mut self) -> Result<(), String> {
        let taken = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Hide, Clear(ClearType::All)))
            // Clearing through the old one would ask the terminal where its cursor is, and the keys' thread eats the answer.
            .and_then(|()| DefaultTerminal::new(CrosstermBackend::new(io::stdout())));
        self.terminal = taken.map_err(|error| cannot("take the terminal again", &error))?;
        Ok(())
    }

    fn leave(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = execute!(io::stdout(), Show);
        let _ = ratatui::try_restore();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

fn cannot(what: &str, error: &io::Error) -> String {
    format!("cannot {what}: {error}")
}

/// The signals that end the view, and the one that says that we were stopped.
pub(super) struct Ends {
    interrupt: Watched,
    terminate: Watched,
    hangup: Watched,
    quit: Watched,
    goes_on: Watched,
}

impl Ends {
    /// From now on they do not end the process by themselves.
    pub(super) fn watch() -> Result<Self, String> {
        let watch = |kind| signal(kind).map_err(|error| cannot("watch for signals", &error));
        Ok(Ends {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            quit: watch(SignalKind::quit())?,
            goes_on: watch(SignalKind::from_raw(Signal::CONT.as_raw()))?,
        })
    }

    /// The number of the signal that ends the view; `None` when we were stopped and go on.
    pub(super) async fn next(&mut self) -> Option<u8> {
        let ended = tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.goes_on.recv() => return None,
        };
        u8::try_from(ended.as_raw()).ok()
    }
}

/// Keys and changes of the window's size. They are read on a thread that ends with the process.
pub(super) fn read_keys() -> Result<UnboundedReceiver<Result<Input, String>>, String> {
    let (keys, input) = unbounded_channel();
    let read = move || {
        loop {
            let came = event::read().map_err(|error| cannot("read keys from the terminal", &error));
            let failed = came.is_err();
            // Some terminals tell when a key is let go, too.
            let wanted = !matches!(&came, Ok(Input::Key(key)) if key.kind == KeyEventKind::Release);
            if (wanted && keys.send(came).is_err()) || failed {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("keys".to_owned())
        .stack_size(STACK)
        .spawn(read)
        .map_err(|error| cannot("start a thread", &error))?;
    Ok(input)
}
