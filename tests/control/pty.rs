//! A program on a terminal of the test's own: what it draws is kept as the screen that a person would see.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, tcgetattr};

use crate::fake::DEADLINE;

/// A program that has a terminal.
pub struct OnTerminal {
    child: Child,
    keys: File,
    /// Our own end of the terminal's other side, so that it lives on.
    side: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl OnTerminal {
    /// Starts it as the leader of a session on a terminal of this size.
    pub fn start(command: &mut Command, columns: u16, lines: u16) -> OnTerminal {
        let size = libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: both numbers are written before it returns 0; no name and no modes are asked for.
        let made = unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), &size) };
        assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
        // SAFETY: openpty has just made both, and nobody else knows them.
        let (ours, side) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let end = || side.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        let lead = || {
            rustix::process::setsid()?;
            // SAFETY: 0 is the terminal; the call takes a number and no memory.
            if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes two system calls and allocates nothing.
        let child = unsafe { command.pre_exec(lead) }.spawn().unwrap();
        let parser = vt100::Parser::new(NonZeroU16::new(lines).unwrap(), NonZeroU16::new(columns).unwrap(), 0);
        let screen = Arc::new(Mutex::new(parser));
        let (mut reader, drawn) = (ours.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                drawn.lock().unwrap().process(&buffer[..count]);
            }
        });
        OnTerminal { child, keys: ours, side, screen }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Writes to the terminal, as another program would that has it too.
    pub fn print(&self, text: &str) {
        rustix::io::write(&self.side, text.as_bytes()).unwrap();
    }

    /// Another size of the window.
    pub fn resize(&self, columns: u16, lines: u16) {
        let size = rustix::termios::Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        self.screen.lock().unwrap().set_size(NonZeroU16::new(lines).unwrap(), NonZeroU16::new(columns).unwrap());
        rustix::termios::tcsetwinsize(&self.side, size).unwrap();
    }

    /// What is on the screen.
    pub fn shown(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// The foreground and the background of the first character of the line that begins with this text.
    pub fn colours(&self, text: &str) -> (vt100::Color, vt100::Color) {
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        let shown = screen.contents();
        let row = shown.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("no {text:?} in {shown}"));
        let cell = screen.cell(row.try_into().unwrap(), 0).unwrap();
        (cell.fgcolor(), cell.bgcolor())
    }

    /// Waits until what a person sees is so, and gives it.
    #[track_caller]
    pub fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let shown = self.shown();
            if is_so(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}\n{shown}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until this stands on the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait(text, |shown| shown.contains(text))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it has not ended within {DEADLINE:?}\n{}", self.shown());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the terminal is as a shell wants it: its own screen, a cursor, lines and echo.
    pub fn is_given_back(&self) -> bool {
        let modes = tcgetattr(self.side.as_fd()).unwrap().local_modes;
        let parser = self.screen.lock().unwrap();
        let cooked = modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        cooked && !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
    }

    /// Waits until it is: the last bytes may still be under way.
    #[track_caller]
    pub fn wait_until_given_back(&self) {
        self.wait("the terminal is given back", |_| self.is_given_back());
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
