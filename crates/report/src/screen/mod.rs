//! The live view: a full-screen view of the run, redrawn four times per second by a separate thread.
//! It only reads, except that `q` stops the run. It restores the terminal however it ends, also after a panic.

mod bars;
mod keyboard;
mod snapshot;
mod view;

pub use snapshot::Sources;

use crate::messages;
use keyboard::{Key, Keyboard};
use parking_lot::ReentrantMutex;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{cursor, execute, terminal},
};
use snapshot::SnapshotBuilder;
use std::{
    cell::Cell,
    io::{self, IsTerminal, Stderr},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const REDRAW: Duration = Duration::from_millis(250);
/// Time for the last drawing. A terminal that takes no data, for example over a broken connection, must not keep the results from being
/// written.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How often the end of the run is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the view owns the terminal. Locked while drawing, taking and restoring the terminal. The lock is reentrant, because
/// the panic hook locks it too, possibly on the thread that panicked while drawing.
static IS_UP: ReentrantMutex<Cell<bool>> = ReentrantMutex::new(Cell::new(false));

/// The live view. Closes when dropped.
#[derive(Debug)]
pub struct Screen {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Checks that stderr is a terminal for the view, and that a terminal can be read for keys. Stdout belongs to the summary.
///
/// # Errors
/// One of the two terminals is missing. The message says which one and what to do.
pub fn check() -> Result<(), String> {
    if !io::stderr().is_terminal() {
        return Err(
            "--tui needs a terminal, but stderr is not one: omit --tui or do not redirect stderr".into()
        );
    }
    keyboard::terminal().map(drop).map_err(|error| {
        format!("--tui reads keys, but neither stdin nor /dev/tty is a terminal ({error}): omit --tui")
    })
}

impl Screen {
    /// Takes the terminal and starts to draw.
    ///
    /// # Errors
    /// The terminal cannot be configured, or the thread cannot be started.
    pub fn open(sources: Sources) -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let taken = TerminalGuard::take()?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stderr()))?;
        let (builder, has_ended) = (SnapshotBuilder::new(sources), Arc::clone(&ended));
        let thread = std::thread::Builder::new()
            .name("screen".into())
            .spawn(move || show(terminal, builder, &has_ended, &taken))?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + CLOSE_WITHIN;
        while Instant::now() < deadline && self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let _ = thread.join();
        }
    }
}

/// Ownership of the terminal. Restores it when dropped.
#[derive(Debug)]
struct TerminalGuard;

impl TerminalGuard {
    fn take() -> io::Result<Self> {
        restore_on_panic();
        let is_up = IS_UP.lock();
        messages::defer();
        is_up.set(true);
        let taken = Self;
        terminal::enable_raw_mode()?;
        execute!(io::stderr(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(taken)
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal once. A panic hook may call it first, so that the message is readable and nothing is drawn over it.
fn restore() {
    let is_up = IS_UP.lock();
    if is_up.replace(false) {
        let _ = execute!(io::stderr(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
        messages::flush_deferred();
    }
}

fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

fn show(
    mut terminal: Terminal<CrosstermBackend<Stderr>>,
    mut builder: SnapshotBuilder,
    ended: &AtomicBool,
    _taken: &TerminalGuard,
) {
    let (mut shows_help, mut keyboard) = (false, Keyboard::open());
    while !ended.load(Ordering::Relaxed) {
        let snapshot = builder.take(messages::last_deferred(), shows_help);
        let is_up = IS_UP.lock();
        if !is_up.get() {
            return;
        }
        // A closed terminal must not end the run.
        let _ = terminal.draw(|frame| view::view(&snapshot, frame.area(), frame.buffer_mut()));
        drop(is_up);
        let next = Instant::now() + REDRAW;
        while Instant::now() < next && !ended.load(Ordering::Relaxed) {
            for key in keyboard.wait(POLL_INTERVAL) {
                match key {
                    Key::Stop => builder.stop().escalate(),
                    Key::Help => shows_help = !shows_help,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_the_view_is_drawn_gives_the_terminal_back() {
        let drawing = IS_UP.lock();
        drawing.set(true);
        messages::defer();
        // The hook calls this on the thread that draws.
        restore();
        assert_eq!((drawing.get(), messages::last_deferred()), (false, None));
    }
}
