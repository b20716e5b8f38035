//! The bays: up to six in block letters, more as tiles of ten by two with a block-letter banner.

use super::letters::{LETTER_ROWS, draw_word};
use super::{line, seconds, short_tail};
use crate::provision::floor::{BayState, FloorBay, Step};
use crate::ui::model::Model;
use crate::ui::theme::{self, Tone};
use crate::words;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Most bays that are shown in block letters.
const BLOCK_BAYS: usize = 6;

const TILE_WIDTH: u16 = 10;
const TILE_HEIGHT: u16 = 2;
const BANNER_HEIGHT: u16 = LETTER_ROWS + 1;

/// Draws all bays into `area`.
pub fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    match model.floor.bays.len() {
        0 => line("no bay has reported yet", theme::dim(), area, 0, buf),
        1..=BLOCK_BAYS => draw_blocks(model, area, buf),
        _ => draw_tiles(model, area, buf),
    }
}

fn draw_blocks(model: &Model, area: Rect, buf: &mut Buffer) {
    let (columns, rows) = match model.floor.bays.len() {
        1..=3 => (model.floor.bays.len(), 1),
        4 => (2, 2),
        _ => (3, 2),
    };
    let (columns, rows) = (cells(columns), cells(rows));
    let (width, height) = (area.width / columns, area.height / rows);
    for (place, bay) in (0u16..).zip(&model.floor.bays) {
        let x = area.x + (place % columns) * width;
        let y = area.y + (place / columns) * height;
        draw_block(model, bay, Rect::new(x, y, width - 1, height), buf);
    }
}

/// A title bar, the word in block letters or what the unit is doing, and one line of what to do.
fn draw_block(model: &Model, bay: &FloorBay, area: Rect, buf: &mut Buffer) {
    let tone = theme::bay_tone(bay);
    buf.set_style(Rect { height: 1, ..area }, tone.bar());
    let name = short_tail(&bay.name, 10);
    let device = bay.device.as_ref().map_or("", |device| device.as_str());
    let title = format!(
        " {}{name}  {}  {}",
        theme::bay_mark(bay),
        bay.word(),
        short_tail(device, 20)
    );
    line(&title, tone.bar(), area, 0, buf);
    let body = Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(2),
        ..area
    };
    let last = area.height.saturating_sub(1);
    match &bay.state {
        BayState::Waiting { for_scan } => {
            let text = if *for_scan {
                " plug the unit in and scan its label"
            } else {
                " plug a unit in"
            };
            line(text, theme::dim(), body, body.height / 2, buf);
            draw_weak(bay, body, buf);
            draw_scanned(bay, area, last, buf);
        }
        BayState::Working => {
            line(&ladder(bay), Tone::Quiet.text(), body, body.height / 2, buf);
            let since = format!(" for {}", seconds(model.now_ms, bay.since_ms));
            line(&since, theme::dim(), body, body.height / 2 + 1, buf);
            draw_weak(bay, body, buf);
            draw_scanned(bay, area, last, buf);
        }
        BayState::Finished(outcome) => {
            draw_word(outcome.verdict.short(), body, tone.text(), buf);
            line(
                &format!(" {}", words::of_outcome(outcome).next),
                Tone::Act.text(),
                area,
                last,
                buf,
            );
        }
        BayState::Out(fault) => {
            draw_word("OUT", body, tone.text(), buf);
            line(
                &format!(" {}", words::of(fault).next),
                Tone::Act.text(),
                area,
                last,
                buf,
            );
        }
    }
}

fn draw_weak(bay: &FloorBay, body: Rect, buf: &mut Buffer) {
    if bay.weak {
        let text = " weak link: check cable and plug";
        line(text, Tone::Attention.text(), body, 0, buf);
    }
}

fn draw_scanned(bay: &FloorBay, area: Rect, row: u16, buf: &mut Buffer) {
    if let Some(text) = &bay.scanned {
        let text = format!(" scanned {text}");
        line(&text, theme::dim(), area, row, buf);
    }
}

/// Such as ` ■■■■□□□□□ 5/9 Write`.
fn ladder(bay: &FloorBay) -> String {
    let number = bay.step.map_or(0, Step::number);
    let total = Step::ALL.len();
    let done = "■".repeat(number);
    let open = "□".repeat(total - number);
    format!(" {done}{open} {number}/{total} {}", bay.word())
}

fn draw_tiles(model: &Model, area: Rect, buf: &mut Buffer) {
    let banner = Rect {
        height: BANNER_HEIGHT.min(area.height),
        ..area
    };
    let tiles = Rect {
        y: banner.bottom(),
        height: area.height - banner.height,
        ..area
    };
    let columns = (tiles.width / TILE_WIDTH).max(1);
    let rows = (tiles.height / TILE_HEIGHT).max(1);
    let bays = &model.floor.bays;
    let per_page = usize::from(columns) * usize::from(rows);
    let pages = bays.len().div_ceil(per_page);
    let first = (model.page % pages) * per_page;
    let shown = bays.iter().skip(first).take(per_page);
    for (place, bay) in (0u16..).zip(shown) {
        let x = tiles.x + (place % columns) * TILE_WIDTH;
        let y = tiles.y + (place / columns) * TILE_HEIGHT;
        let tile = Rect::new(x, y, TILE_WIDTH - 1, TILE_HEIGHT).intersection(tiles);
        draw_tile(bay, tile, buf);
    }
    let last = (first + per_page).min(bays.len());
    let page = match pages {
        1 => format!("{} bays", bays.len()),
        _ => format!("bays {} to {last} of {}: PgUp PgDn", first + 1, bays.len()),
    };
    draw_banner(model, &page, banner, buf);
}

fn draw_tile(bay: &FloorBay, area: Rect, buf: &mut Buffer) {
    let style = theme::bay_tone(bay).text();
    let title = format!("{}{}", theme::bay_mark(bay), short_tail(&bay.name, 7));
    line(&title, style, area, 0, buf);
    line(bay.short_word(), style, area, 1, buf);
}

fn draw_banner(model: &Model, page: &str, area: Rect, buf: &mut Buffer) {
    let Some((bay, outcome)) = model.banner() else {
        return line(page, theme::dim(), area, 0, buf);
    };
    let tone = theme::verdict_tone(outcome.verdict);
    let device = outcome.device.as_ref().map_or("", |device| device.as_str());
    let title = format!(
        "{} {}  {}  {device}",
        theme::verdict_shape(outcome.verdict),
        bay.name,
        outcome.verdict.word()
    );
    let room = area.width.saturating_sub(cells(page.chars().count()) + 2);
    line(
        &title,
        tone.text(),
        Rect {
            width: room,
            ..area
        },
        0,
        buf,
    );
    let right = Rect {
        x: area.x + room,
        width: area.width - room,
        ..area
    };
    line(page, theme::dim(), right, 0, buf);
    let body = Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(1),
        ..area
    };
    draw_word(outcome.verdict.short(), body, tone.text(), buf);
}

fn cells(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
