//! The screen as drawn: header, bays or a panel, what needs a person, the scan field, the keys. Always in these places.

mod attention;
mod bays;
mod letters;
mod panels;

use super::model::{Binding, Model, Panel};
use super::theme::{self, Tone};
use crate::provision::floor::{BayState, FloorBay};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget, Wrap};

/// The smallest terminal that the screen is made for, in columns and rows.
const MINIMUM: (u16, u16) = (80, 24);

/// Rows for what needs a person, at the minimum size.
const ATTENTION_ROWS: u16 = 5;

/// Of the rows above the minimum, one in so many goes to what needs a person; the bays get the others.
const ATTENTION_SHARE: u16 = 8;

/// Columns for the shift's name in the header: the date and time that it has by default.
const SHIFT_WIDTH: usize = 20;

/// Draws the screen.
pub fn view(frame: &mut Frame, model: &Model) {
    let area = frame.area();
    render(model, area, frame.buffer_mut());
}

/// Draws the screen into a buffer of any size.
pub fn render(model: &Model, area: Rect, buf: &mut Buffer) {
    if area.width < MINIMUM.0 || area.height < MINIMUM.1 {
        return draw_too_small(model, area, buf);
    }
    let attention = ATTENTION_ROWS + (area.height - MINIMUM.1) / ATTENTION_SHARE;
    let [header, middle, attention, scan, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Fill(1),
        Constraint::Length(attention),
        Constraint::Length(2),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_header(model, header, buf);
    match model.panel {
        Panel::Line => bays::draw(model, middle, buf),
        Panel::Help => panels::draw_help(middle, buf),
        Panel::Detail => panels::draw_detail(model, middle, buf),
        Panel::Shift => panels::draw_shift(model, middle, buf),
    }
    attention::draw(model, attention, buf);
    draw_scan(model, scan, buf);
    draw_keys(model, keys, buf);
}

fn draw_header(model: &Model, area: Rect, buf: &mut Buffer) {
    let floor = &model.floor;
    let shift = match &floor.shift {
        Some(shift) if shift.open => format!("shift {}", short_tail(&shift.name, SHIFT_WIDTH)),
        Some(shift) => format!("shift {} CLOSED", short_tail(&shift.name, SHIFT_WIDTH)),
        None => "NO SHIFT".to_owned(),
    };
    let time = clock(model.now_ms);
    let station = short_tail(&floor.station, 12);
    line(
        &format!("{station}   {shift}   {time} UTC"),
        Tone::Quiet.bar(),
        area,
        0,
        buf,
    );
    let mark = |text: &str, from_right: u16| {
        let x = area.right().saturating_sub(from_right);
        (x, text.to_owned())
    };
    if floor.is_stale(model.now_ms) {
        let (x, text) = mark(" STALE ", 21);
        buf.set_string(x, area.y, text, Tone::Attention.bar());
    }
    if floor.simulated {
        let (x, text) = mark(" SIMULATED ", 12);
        buf.set_string(x, area.y, text, Tone::Attention.bar());
    }
    let counts = &floor.counts;
    let injected = match counts.injected {
        0 => String::new(), // most lines have no such products
        count => format!("  injected {count}"),
    };
    let outbox = floor.outbox();
    let text = format!(
        "units {}  passed {}  failed {}{injected}  open {}  errors {}   outbox {}  refused {}",
        counts.units(),
        counts.passed,
        counts.failed,
        counts.open,
        counts.errors,
        outbox.pending,
        outbox.refused
    );
    line(&text, Style::new(), area, 1, buf);
}

/// What must be done, in blue; then the field, with what it binds to.
fn draw_scan(model: &Model, area: Rect, buf: &mut Buffer) {
    let act = if model.quitting {
        let working = |bay: &&FloorBay| bay.state == BayState::Working;
        let count = model.floor.bays.iter().filter(working).count();
        format!("STOP THE STATION? F10 again: yes.  Esc: no.  ({count} bays are working)")
    } else if let Some((bay, outcome)) = model.focused() {
        let word = outcome.verdict.word();
        format!("ENTER: acknowledge {word} of {}", bay.name)
    } else if model.note().is_some() {
        "ENTER: read".to_owned()
    } else {
        String::new()
    };
    line(&act, Tone::Act.text(), area, 0, buf);
    let binding = match model.binding() {
        Binding::Bay(name) => format!("for {}", short_tail(name, 16)),
        Binding::NoneWaits => "for no bay: none waits".to_owned(),
        Binding::Ambiguous => "scan the label at a bay first".to_owned(),
    };
    let field = format!("SCAN ({binding}) > {}▏  ", short_tail(&model.entry, 30));
    line(&field, Tone::Quiet.bar(), area, 1, buf);
    if let Some(notice) = &model.notice {
        let taken = u16::try_from(field.chars().count()).unwrap_or(u16::MAX);
        let [_, rest] =
            Layout::horizontal([Constraint::Length(taken), Constraint::Fill(1)]).areas(area);
        line(notice, Tone::Act.text(), rest, 1, buf);
    }
}

fn draw_keys(model: &Model, area: Rect, buf: &mut Buffer) {
    let keys = match model.panel {
        Panel::Line => "F1 help   F2 detail   F3 shift: close it and upload   F10 stop",
        _ => "Esc back to the bays   F1 help   F2 detail   F3 shift   F10 stop",
    };
    line(keys, theme::dim(), area, 0, buf);
}

/// Below the minimum: what is wrong, and still each bay's word as far as there is room.
fn draw_too_small(model: &Model, area: Rect, buf: &mut Buffer) {
    let (width, height) = MINIMUM;
    let simulated = if model.floor.simulated {
        "SIMULATED. "
    } else {
        ""
    };
    let mut text = format!(
        "{simulated}The screen needs {width}x{height}, this terminal has {}x{}. ",
        area.width, area.height
    );
    for bay in &model.floor.bays {
        text.push_str(&format!("{}: {}. ", bay.name, bay.word()));
    }
    paragraph("", &text, Style::new(), area, buf);
}

/// One row of text, cut at the area's edge.
fn line(text: &str, style: Style, area: Rect, row: u16, buf: &mut Buffer) {
    if row < area.height {
        buf.set_stringn(area.x, area.y + row, text, usize::from(area.width), style);
    }
}

/// A bold heading and text after it, wrapped.
fn paragraph(heading: &str, text: &str, style: Style, area: Rect, buf: &mut Buffer) {
    let words = Line::from(vec![
        Span::styled(heading.to_owned(), style),
        Span::raw(text.to_owned()),
    ]);
    Paragraph::new(words)
        .wrap(Wrap { trim: true })
        .render(area, buf);
}

/// The text, or its end after an ellipsis: names differ at their ends.
fn short_tail(text: &str, max: usize) -> String {
    let count = text.chars().count();
    if count <= max {
        return text.to_owned();
    }
    let tail: String = text.chars().skip(count + 1 - max).collect();
    format!("…{tail}")
}

/// `HH:MM:SS` of the day, in UTC.
fn clock(at_ms: i64) -> String {
    let of_day = at_ms.div_euclid(1000).rem_euclid(86_400);
    let (hours, minutes) = (of_day / 3600, of_day / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", of_day % 60)
}

/// Time since `from_ms`, such as `7 s` or `12 min`.
fn seconds(now_ms: i64, from_ms: i64) -> String {
    match now_ms.saturating_sub(from_ms).max(0) / 1000 {
        short @ 0..120 => format!("{short} s"),
        long => format!("{} min", long / 60),
    }
}
