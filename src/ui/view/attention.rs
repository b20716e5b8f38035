//! What needs a person now: a FAIL with its meaning and next step, a silent station, or a note to read once.

use super::{line, paragraph, seconds};
use crate::provision::floor::{FloorBay, Note, Outcome};
use crate::ui::model::Model;
use crate::ui::theme::{self, Tone};
use crate::words;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Draws the one thing that needs a person most; nothing while nothing does.
pub fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    if let Some((bay, outcome)) = model.focused() {
        return draw_outcome(model, bay, outcome, area, buf);
    }
    if model.floor.is_stale(model.now_ms) {
        return draw_stale(model, area, buf);
    }
    if let Some(note) = model.note() {
        draw_note(note, area, buf);
    }
}

fn draw_outcome(model: &Model, bay: &FloorBay, outcome: &Outcome, area: Rect, buf: &mut Buffer) {
    let tone = theme::verdict_tone(outcome.verdict);
    let others = model.unacknowledged().count() - 1;
    let more = match others {
        0 => String::new(),
        _ => format!("  (and {others} more)"),
    };
    let device = outcome.device.as_ref();
    let device = device.map_or(String::new(), |device| format!(" {device}"));
    let told = words::of_outcome(outcome);
    let title = format!(
        " {} {} {}{device}: {}{more}",
        theme::verdict_shape(outcome.verdict),
        bay.name,
        outcome.verdict.word(),
        told.meaning
    );
    buf.set_style(Rect { height: 1, ..area }, tone.bar());
    line(&title, tone.bar(), area, 0, buf);
    let body = area.height.saturating_sub(1);
    let what = Rect {
        y: area.y + 1,
        height: body / 2,
        ..area
    };
    let next = Rect {
        y: what.bottom(),
        height: body - what.height,
        ..area
    };
    paragraph("What happened: ", &told.what, tone.text(), what, buf);
    paragraph("Do next: ", &told.next, Tone::Act.text(), next, buf);
}

fn draw_stale(model: &Model, area: Rect, buf: &mut Buffer) {
    let silence = seconds(model.now_ms, model.floor.last_report_ms);
    let text =
        format!(" STALE: the station has been silent for {silence}; the screen may be out of date");
    buf.set_style(Rect { height: 1, ..area }, Tone::Attention.bar());
    line(&text, Tone::Attention.bar(), area, 0, buf);
    let next = " leave the units where they are and call the shift lead";
    line(next, Tone::Act.text(), area, 1, buf);
}

fn draw_note(note: &Note, area: Rect, buf: &mut Buffer) {
    let title = format!(" {}", note.title);
    line(&title, Tone::Complete.text(), area, 0, buf);
    let rows = area.height.saturating_sub(1);
    let lines = words::note_lines(&note.lines, note.fault.as_ref());
    let all = lines.join(", ");
    let one_per_row = lines.len() <= usize::from(rows);
    let body = Rect {
        y: area.y + 1,
        height: rows,
        ..area
    };
    if one_per_row {
        for (row, text) in (0u16..).zip(&lines) {
            line(&format!("   {text}"), Tone::Quiet.text(), body, row, buf);
        }
    } else {
        paragraph("   ", &all, Tone::Quiet.text(), body, buf);
    }
}
