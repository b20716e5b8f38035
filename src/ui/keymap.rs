//! Keys to actions. Letters and digits only ever go into the scan field: a scanner is a keyboard.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A character for the scan field.
    Type(char),
    /// Takes back the last character.
    Erase,
    /// Ends what stands in the scan field; with an empty field, acknowledges.
    Enter,
    /// Back to the bays; empties the scan field.
    Back,
    /// Opens or leaves the help.
    Help,
    /// Opens or leaves the engineer's detail.
    Detail,
    /// Opens or leaves the shift panel.
    Shift,
    /// Asks "quit?"; a second time, quits.
    Quit,
    /// The next bay or page.
    Next,
    /// The bay or page before.
    Previous,
}

/// The action of a key; `None` for keys without one.
pub fn action(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key
        .modifiers
        .intersects(KeyModifiers::CONTROL | KeyModifiers::ALT)
    {
        let quit = key.modifiers == KeyModifiers::CONTROL && key.code == KeyCode::Char('c');
        return quit.then_some(Action::Quit);
    }
    Some(match key.code {
        KeyCode::Char(c) => Action::Type(c),
        KeyCode::Backspace => Action::Erase,
        KeyCode::Enter => Action::Enter,
        KeyCode::Esc => Action::Back,
        KeyCode::F(1) => Action::Help,
        KeyCode::F(2) => Action::Detail,
        KeyCode::F(3) => Action::Shift,
        KeyCode::F(10) => Action::Quit,
        KeyCode::Down | KeyCode::Right | KeyCode::PageDown => Action::Next,
        KeyCode::Up | KeyCode::Left | KeyCode::PageUp => Action::Previous,
        _ => return None,
    })
}
