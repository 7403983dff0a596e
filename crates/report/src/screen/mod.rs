//! The live view: a full-screen view of the run, redrawn four times per second by a separate thread.
//! It only reads, except that `q` stops the run. It restores the terminal however it ends, also after a panic.

mod bars;
mod snapshot;
mod view;

pub use snapshot::Sources;

use crate::messages;
use parking_lot::ReentrantMutex;
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, event,
        event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute, terminal,
    },
};
use snapshot::SnapshotBuilder;
use std::{
    cell::Cell,
    fs::File,
    io::{self, IsTerminal, Stderr},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const REDRAW: Duration = Duration::from_millis(250);
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
    match File::options().read(true).write(true).open("/dev/tty") {
        Err(error) if !io::stdin().is_terminal() => Err(format!(
            "--tui reads keys, but neither stdin nor /dev/tty is a terminal ({error}): omit --tui"
        )),
        Ok(_) | Err(_) => Ok(()),
    }
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
        if let Some(thread) = self.thread.take() {
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
    let mut shows_help = false;
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
            match key() {
                Some(Key::Stop) => builder.stop().escalate(),
                Some(Key::Help) => shows_help = !shows_help,
                None => {}
            }
        }
    }
}

/// Effect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Stop,
    Help,
}

/// Waits for a key for at most [`POLL_INTERVAL`].
fn key() -> Option<Key> {
    match event::poll(POLL_INTERVAL) {
        Ok(true) => match event::read().ok()? {
            Event::Key(key) => meaning(&key),
            _ => None,
        },
        Ok(false) => None,
        // Without a keyboard there are no events.
        Err(_) => {
            std::thread::sleep(POLL_INTERVAL);
            None
        }
    }
}

fn meaning(key: &KeyEvent) -> Option<Key> {
    match key.code {
        _ if key.kind != KeyEventKind::Press => None,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Stop),
        KeyCode::Char('q') => Some(Key::Stop),
        KeyCode::Char('?' | 'h') => Some(Key::Help),
        _ => None,
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

    #[test]
    fn what_keys_mean() {
        let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let control = |code| KeyEvent::new(code, KeyModifiers::CONTROL);
        for (key, expected) in [
            (plain(KeyCode::Char('q')), Some(Key::Stop)),
            (control(KeyCode::Char('c')), Some(Key::Stop)),
            (plain(KeyCode::Char('c')), None),
            (plain(KeyCode::Char('?')), Some(Key::Help)),
            (plain(KeyCode::Esc), None),
        ] {
            assert_eq!(meaning(&key), expected, "{key:?}");
        }
    }
}
