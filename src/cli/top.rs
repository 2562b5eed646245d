//! `ratoon top [NAME]`: a live view of the pool in the terminal.
//!
//! Law: the terminal is restored, in whatever way the view ends. A master that goes away is shown as gone, and connected to again
//! when it is back. The view only reads.

mod columns;
mod feed;
mod rates;
mod state;
pub(super) mod terminal;
mod view;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::crossterm::event::Event as Input;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::time::{MissedTickBehavior, interval};

use self::feed::News;
use self::state::{State, Turn};
use self::terminal::{End, Ends, Screen};
use self::view::View;
use super::status_view::Clock;
use super::target::Target;

/// Interval at which the screen is drawn when nothing else happens, to update ages.
const TICK: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
}

/// Exit status 0 when the user leaves the view by its key.
pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    if !stdout().is_terminal() {
        return Err("top draws on a terminal, but standard output is none; `ratoon status` prints the same once".to_owned());
    }
    if std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty()) {
        return Err("top draws on a terminal, but TERM says that this one cannot move its cursor; use `ratoon status`, or set \
                    TERM to the terminal's kind"
            .to_owned());
    }
    let client = options.target.client().await?;
    // A master that does not answer the first request is an error; only later it is shown as gone.
    let first = client.status().await.map_err(|error| error.to_string())?;
    let mut state = State::new(first, Instant::now());
    let mut ends = Ends::watch()?;
    let news = feed::start(client);
    let mut screen = Screen::enter()?;
    let keys = terminal::read_keys()?;
    let end = watch(&mut state, &mut screen, news, keys, &mut ends).await;
    drop(screen);
    match end? {
        End::Left => Ok(ExitCode::SUCCESS),
        End::Signal(number) => Ok(ExitCode::from(128 + number)),
    }
}

/// Draws the view and handles news, keys and signals, until a key or a signal ends the view.
async fn watch(
    state: &mut State,
    screen: &mut Screen,
    mut news: Receiver<News>,
    mut keys: UnboundedReceiver<Result<Input, String>>,
    ends: &mut Ends,
) -> Result<End, String> {
    let colour = super::screen::Screen::of_stdout().colour;
    let zone = TimeZone::system();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let clock = Clock { now: Timestamp::now(), zone: zone.clone() };
        screen.draw(|frame| View { state, clock: &clock, now: Instant::now(), colour }.draw(frame))?;
        tokio::select! {
            end = ends.next() => match end {
                Some(number) => return Ok(End::Signal(number)),
                // The process was stopped from outside and continued: the shell has had the terminal meanwhile.
                None => screen.enter_again()?,
            },
            came = news.recv() => {
                let mut came = Some(came.ok_or("what asks the master has ended; that is a fault of this program")?);
                while let Some(one) = came {
                    state.learn(one, Instant::now());
                    came = news.try_recv().ok();
                }
            }
            input = keys.recv() => {
                let mut input = Some(input.ok_or("what reads the keys has ended; that is a fault of this program")?);
                while let Some(one) = input {
                    if let Input::Key(key) = one? {
                        match state.key(key) {
                            Turn::Stay => {}
                            Turn::Leave => return Ok(End::Left),
                            Turn::Suspend => screen.suspend()?,
                        }
                    }
                    input = keys.try_recv().ok();
                }
            }
            _ = tick.tick() => {}
        }
    }
}
