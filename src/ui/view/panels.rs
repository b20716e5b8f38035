//! The panels behind the function keys: help, one bay in full, the shift.

use super::{clock, line, seconds};
use crate::provision::fault::Fault;
use crate::provision::floor::{BayState, FloorBay, Outbox, Outcome, Shift, Step};
use crate::provision::verdict::Verdict;
use crate::ui::model::Model;
use crate::ui::theme::{self, Tone};
use crate::ui::update::{CLOSE_WORD, RETRY_WORD, UPLOAD_WORD};
use crate::words;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// What the words, shapes and keys mean.
pub fn draw_help(area: Rect, buf: &mut Buffer) {
    let meaning = |verdict: Verdict, text: &str| {
        let shape = theme::verdict_shape(verdict);
        (format!("{shape} {:<15}{text}", verdict.word()), verdict)
    };
    let verdicts = [
        meaning(
            Verdict::Passed,
            "the unit is ready and on record: remove it",
        ),
        meaning(
            Verdict::Injected,
            "(INJ) configured, without an identity: remove it",
        ),
        meaning(
            Verdict::Failed,
            "the unit is bad: read why, set it aside, press Enter",
        ),
        meaning(
            Verdict::Errored,
            "the station could not do its part; not the unit's fault",
        ),
        meaning(
            Verdict::Recognised,
            "(SEEN) passed before; nothing was done",
        ),
        meaning(
            Verdict::Interrupted,
            "(STOP) no verdict; put the unit in again",
        ),
    ];
    let mut page = Page::new(area);
    for (text, verdict) in &verdicts {
        page.row(text, theme::verdict_tone(*verdict).text(), buf);
    }
    page.row("", Style::new(), buf);
    for text in [
        "Scan the label at a bay, then the unit: the scan is for that bay.",
        "Enter in the empty field, or a scan of the bay's label, acknowledges",
        "the result that the blue line names. `!` marks what waits for that.",
        "F1 help   F2 engineer's detail   F3 shift: close it, upload",
        "F10 or Ctrl-C, twice: stop the station.   Esc: back to the bays",
    ] {
        page.row(text, Style::new(), buf);
    }
}

/// One bay in full.
pub fn draw_detail(model: &Model, area: Rect, buf: &mut Buffer) {
    let bays = &model.floor.bays;
    let place = model.detail.min(bays.len().saturating_sub(1));
    let Some(bay) = bays.get(place) else {
        return line("no bay has reported yet", theme::dim(), area, 0, buf);
    };
    let mut page = Page::new(area);
    let title = format!(
        "{}{}  {} for {}   ({} of {}: arrow keys)",
        theme::bay_mark(bay),
        bay.name,
        bay.word(),
        seconds(model.now_ms, bay.since_ms),
        place + 1,
        bays.len()
    );
    page.row(&title, theme::bay_tone(bay).text(), buf);
    page.row(&format!("port          {}", bay.port), Style::new(), buf);
    let device = bay.device.as_ref().map_or("-", |device| device.as_str());
    page.row(&format!("device        {device}"), Style::new(), buf);
    let registration = bay.registration_id.as_ref().map_or("-", |id| id.as_str());
    page.row(&format!("registration  {registration}"), Style::new(), buf);
    let (first, last) = Step::ALL.split_at(Step::ALL.len() / 2);
    let row = format!("steps         {}", steps(bay, first));
    page.row(&row, Style::new(), buf);
    let row = format!("              {}", steps(bay, last));
    page.row(&row, Style::new(), buf);
    page.row(&link(bay), Style::new(), buf);
    draw_outcome(bay, &mut page, buf);
    for (at_ms, kind) in bay.recent.iter().rev() {
        let text = format!("{}  {kind}", clock(*at_ms));
        page.row(&text, theme::dim(), buf);
    }
}

fn draw_outcome(bay: &FloorBay, page: &mut Page, buf: &mut Buffer) {
    let shown: Option<&Outcome> = match &bay.state {
        BayState::Finished(outcome) => Some(outcome),
        _ => bay.unacknowledged.as_ref(),
    };
    if let Some(outcome) = shown {
        let tone = theme::verdict_tone(outcome.verdict);
        let told = words::of_outcome(outcome);
        let code = outcome.fault.as_ref().map(Fault::code);
        let code = code.map_or(String::new(), |code| format!("{code}: "));
        let text = format!("{:<14}{code}{}", outcome.verdict.word(), told.what);
        page.row(&text, tone.text(), buf);
        page.row(&format!("do next       {}", told.next), Style::new(), buf);
    }
}

fn steps(bay: &FloorBay, steps: &[Step]) -> String {
    let mark = |step: &Step| match bay.step {
        Some(at) if *step < at => "●",
        Some(at) if *step == at => "◐",
        _ => "○",
    };
    let word = |step: &Step| format!("{} {}", mark(step), step.word());
    let words: Vec<String> = steps.iter().map(word).collect();
    words.join("  ")
}

fn link(bay: &FloorBay) -> String {
    let health = &bay.health;
    format!(
        "link          {} retries, {} CRC errors, {} dropped lines, {} bytes, {} ms",
        health.retries,
        health.crc_errors,
        health.dropped_lines,
        health.bytes_out + health.bytes_in,
        health.latency_max_ms
    )
}

/// The shift, its units, and what becomes of what passed.
pub fn draw_shift(model: &Model, area: Rect, buf: &mut Buffer) {
    let mut page = Page::new(area);
    match &model.floor.shift {
        None => page.row("no shift yet", Tone::Attention.text(), buf),
        Some(shift) => draw_shift_units(model, shift, &mut page, buf),
    }
    for (name, outbox) in &model.floor.outboxes {
        page.row(&outbox_line(name, outbox), Style::new(), buf);
        let progress = outbox.progress.as_ref();
        let progress = progress.map(|stands| words::progress(stands, model.now_ms));
        let note = progress.or_else(|| outbox.note.as_ref().map(words::activity));
        if let Some(note) = note {
            page.row(&format!("              {note}"), theme::dim(), buf);
        }
    }
    if let Some(note) = &model.floor.note {
        page.row(&note.title, Style::new(), buf);
        for line in &words::note_lines(&note.lines, note.fault.as_ref()) {
            page.row(&format!("              {line}"), Style::new(), buf);
        }
    }
    page.row("", Style::new(), buf);
    if model.floor.shift.as_ref().is_some_and(|shift| shift.open) {
        let close = format!("To close the shift, type {CLOSE_WORD} and press Enter.");
        page.row(&close, Tone::Act.text(), buf);
    }
    let upload = format!("To upload what is pending, type {UPLOAD_WORD} and press Enter.");
    page.row(&upload, Tone::Act.text(), buf);
    if model.floor.outbox().refused > 0 {
        let retry = format!("To send refused records again, type {RETRY_WORD} and press Enter.");
        page.row(&retry, Tone::Act.text(), buf);
    }
}

fn draw_shift_units(model: &Model, shift: &Shift, page: &mut Page, buf: &mut Buffer) {
    let state = if shift.open { "open" } else { "closed" };
    page.row(
        &format!("shift         {} is {state}", shift.name),
        Tone::Quiet.bar(),
        buf,
    );
    let counts = &model.floor.counts;
    let units = format!(
        "units         {} = {} passed + {} failed{} + {} open   ({} errors, of the station)",
        counts.units(),
        counts.passed,
        counts.failed,
        plus_injected(counts.injected),
        counts.open,
        counts.errors
    );
    page.row(&units, Style::new(), buf);
    let Some(balance) = &shift.balance else {
        return;
    };
    let before = u64::from(balance.open_before) + u64::from(balance.scanned);
    let after = u64::from(balance.passed)
        + u64::from(balance.failed)
        + u64::from(balance.injected)
        + u64::from(balance.scrapped)
        + u64::from(balance.open_after);
    let text = format!(
        "ledger        {} open before + {} scanned",
        balance.open_before, balance.scanned
    );
    page.row(&text, Style::new(), buf);
    let text = format!(
        "              = {} passed + {} failed{} + {} scrapped + {} open after",
        balance.passed,
        balance.failed,
        plus_injected(balance.injected),
        balance.scrapped,
        balance.open_after
    );
    page.row(&text, Style::new(), buf);
    if before == after {
        page.row("              ● balances", Tone::Complete.text(), buf);
    } else {
        let text = format!("              ■ DOES NOT BALANCE: {before} against {after}");
        page.row(&text, Tone::Fault.text(), buf);
    }
}

/// A term of a sum; most lines have no such products.
fn plus_injected(count: u32) -> String {
    match count {
        0 => String::new(),
        count => format!(" + {count} injected"),
    }
}

fn outbox_line(name: &str, outbox: &Outbox) -> String {
    format!(
        "DPS {name:<10}{} pending ({} put off), {} enrolled, {} refused",
        outbox.pending, outbox.deferred, outbox.enrolled, outbox.refused
    )
}

/// Rows of text from the top of an area; what does not fit is not shown.
struct Page {
    area: Rect,
    next: u16,
}

impl Page {
    fn new(area: Rect) -> Self {
        Self { area, next: 0 }
    }

    fn row(&mut self, text: &str, style: Style, buf: &mut Buffer) {
        line(&format!(" {text}"), style, self.area, self.next, buf);
        self.next = self.next.saturating_add(1);
    }
}
