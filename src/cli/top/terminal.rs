//! Takes and restores the terminal, and reads its input. Law: raw mode and the alternate screen end when [`Screen`] is dropped, at a
//! panic, and before the process is stopped. This module does not know what is drawn.

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

/// The reason why the view ended.
pub(in crate::cli) enum End {
    /// The user left it by its key.
    Left,
    /// A signal with this number.
    Signal(u8),
}

/// The terminal, while the view uses it.
pub(in crate::cli) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal. A panic restores it before the panic's message is printed.
    pub(in crate::cli) fn enter() -> Result<Self, String> {
        Ok(Screen { terminal: ratatui::try_init().map_err(|error| cannot("take the terminal", &error))? })
    }

    /// Draws one picture.
    pub(in crate::cli) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> Result<(), String> {
        self.terminal.draw(picture).map(drop).map_err(|error| cannot("draw", &error))
    }

    /// Restores the terminal and stops the process until the shell continues it, as Ctrl-Z does in other programs.
    pub(in crate::cli) fn suspend(&mut self) -> Result<(), String> {
        self.leave();
        // The process stops here, and continues with the next line.
        kill_process(getpid(), Signal::TSTP).map_err(|error| cannot("stop", &error.into()))?;
        self.enter_again()
    }

    /// Takes the terminal again after another process had it.
    pub(in crate::cli) fn enter_again(&mut self) -> Result<(), String> {
        let taken = enable_raw_mode()
            .and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Hide, Clear(ClearType::All)))
            // A clear of the old terminal would ask for the cursor position, and the thread that reads keys would take the answer.
            .and_then(|()| DefaultTerminal::new(CrosstermBackend::new(io::stdout())));
        self.terminal = taken.map_err(|error| cannot("take the terminal again", &error))?;
        Ok(())
    }

    fn leave(&mut self) {
        // Errors are ignored: a terminal that is gone needs no restoring.
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

/// The signals that end the view, and SIGCONT, which tells that the process was stopped.
pub(in crate::cli) struct Ends {
    interrupt: Watched,
    terminate: Watched,
    hangup: Watched,
    quit: Watched,
    goes_on: Watched,
}

impl Ends {
    /// Watches the signals, which from then on do not end the process by themselves.
    pub(in crate::cli) fn watch() -> Result<Self, String> {
        let watch = |kind| signal(kind).map_err(|error| cannot("watch for signals", &error));
        Ok(Ends {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            quit: watch(SignalKind::quit())?,
            goes_on: watch(SignalKind::from_raw(Signal::CONT.as_raw()))?,
        })
    }

    /// The number of the signal that ends the view; `None` when the process was stopped and continues.
    pub(in crate::cli) async fn next(&mut self) -> Option<u8> {
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
pub(in crate::cli) fn read_keys() -> Result<UnboundedReceiver<Result<Input, String>>, String> {
    let (keys, input) = unbounded_channel();
    let read = move || {
        loop {
            let came = event::read().map_err(|error| cannot("read keys from the terminal", &error));
            let failed = came.is_err();
            // Some terminals report the release of a key, too.
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
