//! The operator's screen: snapshots in, commands out. It shares nothing with a bay, so it cannot slow, block or corrupt one.

pub mod keymap;
pub mod model;
mod pace;
pub mod theme;
pub mod update;
pub mod view;

use crate::provision::floor::{Command, Floor};
use crossterm::event::{Event, EventStream};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode};
use futures_util::StreamExt;
use model::Model;
use pace::Pace;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use rustix::process::Signal;
use std::io::{Stdout, stdout};
use std::sync::{Arc, Once};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use update::{Msg, update};

const THREAD: &str = "screen";

type Screen = Terminal<CrosstermBackend<Stdout>>;

/// Why the screen ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// The terminal could not be set up, read or written.
    #[error("the terminal does not work ({0}): run in a terminal, or use --headless")]
    Terminal(#[from] std::io::Error),
    /// No more keys can come.
    #[error("the keyboard is gone: run in a terminal, or use --headless")]
    NoKeyboard,
    /// The screen's thread panicked.
    #[error(
        "the screen stopped unexpectedly: start the station again; what is recorded stays recorded"
    )]
    Panicked,
}

/// Runs the screen until a person asks to stop the station, or until the station ends.
///
/// It has a thread of its own: a terminal that takes no more output holds up nothing but this future. Commands are
/// never waited for; where the station's queue is full, the person is told. The caller sends stderr elsewhere.
pub async fn run(
    floors: watch::Receiver<Arc<Floor>>,
    commands: mpsc::Sender<Command>,
) -> Result<(), UiError> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(THREAD.to_owned())
        .spawn(move || {
            // Nobody hears the result if the caller gave up on the screen.
            let _ = done.send(on_own_thread(floors, commands));
        })?;
    ended.await.unwrap_or(Err(UiError::Panicked))
}

/// The screen as plain text, one line a row.
pub fn picture(floor: &Floor, now_ms: i64, width: u16, height: u16) -> String {
    picture_of(&Model::new(Arc::new(floor.clone()), now_ms), width, height)
}

/// The screen in a given state as plain text, one line a row.
pub fn picture_of(model: &Model, width: u16, height: u16) -> String {
    let mut buf = Buffer::empty(Rect::new(0, 0, width, height));
    let area = buf.area;
    view::render(model, area, &mut buf);
    let mut text = String::new();
    for y in 0..height {
        let row: String = (0..width).map(|x| buf[(x, y)].symbol()).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn on_own_thread(
    floors: watch::Receiver<Arc<Floor>>,
    commands: mpsc::Sender<Command>,
) -> Result<(), UiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    restore_on_panic();
    let result =
        open_terminal().and_then(|terminal| runtime.block_on(show(terminal, floors, commands)));
    ratatui::restore();
    result
}

/// Not `ratatui::init`: its panic hook would take the screen away when a bay's task panics.
fn open_terminal() -> Result<Screen, UiError> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen)?;
    Ok(Terminal::new(CrosstermBackend::new(stdout()))?)
}

/// After a suspension: the shell has used the terminal in between, in its own mode.
fn take_back(terminal: &mut Screen) -> Result<(), UiError> {
    disable_raw_mode()?;
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen)?;
    // Draws everything anew. `clear` would ask the terminal where its cursor is, and the keys' reader takes the answer.
    let size = terminal.size()?;
    Ok(terminal.resize(Rect::new(0, 0, size.width, size.height))?)
}

/// Gives the terminal back before a panic that ends the screen or the program is printed. A bay's panic is caught by its
/// task and leaves the screen alone.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if matches!(std::thread::current().name(), Some(THREAD | "main")) {
                ratatui::restore();
            }
            before(panic);
        }));
    });
}

async fn show(
    mut terminal: Screen,
    mut floors: watch::Receiver<Arc<Floor>>,
    commands: mpsc::Sender<Command>,
) -> Result<(), UiError> {
    let mut keys = EventStream::new();
    let mut resumed = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let mut model = Model::new(floors.borrow_and_update().clone(), now_ms());
    let mut pace = Pace::new();
    loop {
        let msg = tokio::select! {
            alive = floors.changed() => match alive {
                Ok(()) => Msg::Floor(floors.borrow_and_update().clone()),
                Err(_) => return Ok(()),
            },
            event = keys.next() => {
                pace.change();
                match event.ok_or(UiError::NoKeyboard)?? {
                    Event::Key(key) => match keymap::action(key) {
                        Some(action) => Msg::Action(action),
                        None => continue,
                    },
                    _ => continue,
                }
            }
            _ = resumed.recv() => {
                take_back(&mut terminal)?;
                pace.change();
                continue;
            }
            () = sleep(pace.wait(now_ms())) => {
                let now_ms = now_ms();
                // The station may have said that it lives, for which it wakes nobody.
                update(&mut model, Msg::Floor(floors.borrow_and_update().clone()));
                update(&mut model, Msg::Clock(now_ms));
                terminal.draw(|frame| view::view(frame, &model))?;
                pace.drawn(now_ms);
                continue;
            }
        };
        pace.change();
        update(&mut model, Msg::Clock(now_ms()));
        let Some(command) = update(&mut model, msg) else {
            continue;
        };
        let quit = command == Command::Quit;
        match commands.try_send(command) {
            Ok(()) if quit => return Ok(()),
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                update(&mut model, Msg::Refused);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| {
        i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
    })
}
