//! The terminal's other screen, keys without a return key, and everything put back at the end.
//!
//! Invariant: what [`Screen::enter`] changes, dropping the screen takes back, also when entering went only half the way.

use cairn_engine::Error;
use cairn_service::Failure;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::{
    io::{self, IsTerminal, Read, Write},
    sync::Arc,
    thread,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

use super::table::HEAD;

/// Another screen than the shell's, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first place; what is left of a line; what is left of the screen; letters on a light ground, and as before.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &str = "\x1b[J";
const REVERSE: &str = "\x1b[7m";
const PLAIN: &str = "\x1b[m";

/// Columns and rows where the terminal does not tell.
const SIZE: (usize, usize) = (80, 24);

/// What whoever looks on wants.
pub(super) enum Wish {
    Quit,
    Redraw,
}

pub(super) struct Screen {
    keys: Option<Keys>,
    resized: Signal,
}

impl Screen {
    pub(super) fn enter() -> Result<Self, Failure> {
        let resized = signal(SignalKind::window_change()).map_err(failed)?;
        let keys = if io::stdin().is_terminal() { Some(Keys::take().map_err(failed)?) } else { None };
        let screen = Self { keys, resized };
        write(&format!("{ENTER}{HOME}{CLEAR_REST}measuring, q ends")).map_err(failed)?;
        Ok(screen)
    }

    /// Shows lines that are made for a width.
    pub(super) fn draw(&mut self, lines: impl FnOnce(usize) -> Vec<String>) -> Result<(), Failure> {
        let (columns, rows) = size();
        write(&frame(lines(columns), rows)).map_err(failed)
    }

    pub(super) async fn wish(&mut self) -> Wish {
        let quit = async {
            match &self.keys {
                Some(keys) => keys.quit.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = quit => Wish::Quit,
            _ = self.resized.recv() => Wish::Redraw,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to be put back.
        drop(write(LEAVE));
    }
}

fn failed(error: io::Error) -> Failure {
    Error::io("terminal", error).into()
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => SIZE,
    }
}

/// What draws lines over those of the frame before. Lines that find no row are counted in the last.
fn frame(mut lines: Vec<String>, rows: usize) -> String {
    if lines.len() > rows {
        let hidden = lines.len() - rows + 1;
        lines.truncate(rows.saturating_sub(1));
        lines.push(format!("… and {hidden} more"));
    }
    let shown: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(place, line)| match place == HEAD {
            true => format!("{REVERSE}{line}{CLEAR_LINE}{PLAIN}"),
            false => format!("{line}{CLEAR_LINE}"),
        })
        .collect();
    format!("{HOME}{}{CLEAR_REST}", shown.join("\r\n"))
}

/// The keyboard, each key at once and unseen. Signals by keys stay, but for the one that stops: it would leave this screen behind.
struct Keys {
    before: Termios,
    quit: Arc<Notify>,
}

impl Keys {
    fn take() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        let keys = Self { before, quit: Arc::default() };
        let quit = keys.quit.clone();
        // Stuck in its system call when the process ends, which is no matter. Not to be made non-blocking: others have the terminal open too.
        drop(thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&quit))?);
        Ok(keys)
    }
}

/// Tells of a q; ends with it, or when nobody can type any more.
fn read_keys(quit: &Notify) {
    let mut keys = [0; 64];
    while let Ok(length @ 1..) = io::stdin().read(&mut keys) {
        if keys[..length].iter().any(|key| matches!(key, b'q' | b'Q')) {
            return quit.notify_one();
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // As above.
        drop(tcsetattr(io::stdin(), OptionalActions::Now, &self.before).map_err(io::Error::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_its_rows_and_leaves_nothing_of_the_one_before() {
        let lines: Vec<String> = ["a", "b", "c", "d", "R/S", "f"].map(str::to_owned).to_vec();
        let whole = frame(lines.clone(), 6);
        assert_eq!(whole, "\x1b[Ha\x1b[K\r\nb\x1b[K\r\nc\x1b[K\r\nd\x1b[K\r\n\x1b[7mR/S\x1b[K\x1b[m\r\nf\x1b[K\x1b[J");
        let cut = frame(lines, 3);
        assert!(cut.ends_with("\r\nb\x1b[K\r\n… and 4 more\x1b[K\x1b[J"), "{cut:?}");
    }
}
