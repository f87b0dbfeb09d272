//! The terminal of an interactive command: raw while it runs, restored whatever happens.

use std::{
    io::{self, IsTerminal, Write},
    sync::mpsc::{Receiver, Sender, channel},
};

use mvm::{ExecControl, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH},
    iterator::Signals,
};

/// Puts the terminal back when dropped.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Makes standard input's terminal raw, when it is one.
    pub(crate) fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing is left to be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// The size of the terminal at standard output or input; 24 by 80 where there is none.
pub(crate) fn size() -> TerminalSize {
    let found = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    let (rows, cols) = found.map_or((24, 80), |size| (size.ws_row, size.ws_col));
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    TerminalSize { rows, cols, term: term.unwrap_or_else(|| "xterm".to_owned()) }
}

/// Whether a person sits at both ends.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Signals and changes of size, from now on, as what the guest's command shall get.
pub(crate) fn control() -> Receiver<ExecControl> {
    let (sender, receiver) = channel();
    if let Ok(signals) = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH]) {
        std::thread::spawn(move || forward(signals, &sender));
    }
    receiver
}

fn forward(mut signals: Signals, sender: &Sender<ExecControl>) {
    for signal in signals.forever() {
        let control = if signal == SIGWINCH {
            let TerminalSize { rows, cols, .. } = size();
            ExecControl::Resize { rows, cols }
        } else {
            ExecControl::Signal(signal)
        };
        if sender.send(control).is_err() {
            return;
        }
    }
}

/// Standard output without waiting for the end of a line.
pub(crate) struct Flushed(pub(crate) io::Stdout);

impl Write for Flushed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = self.0.lock();
        let length = out.write(bytes)?;
        out.flush()?;
        Ok(length)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
