//! The terminal as it was before something was asked unseen.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

/// A terminal and its settings.
pub struct Before {
    terminal: File,
    settings: Termios,
}

impl Before {
    /// As they are now; `None` without a terminal.
    pub fn now() -> Option<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
        let terminal = terminal.ok()?;
        let settings = tcgetattr(&terminal).ok()?;
        Some(Self { terminal, settings })
    }

    /// Puts them back, and what comes next on a line of its own.
    pub fn restore(&mut self) {
        // There is nothing to be done about a terminal that has gone.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.settings);
        let _ = self.terminal.write_all(b"\n");
    }
}
