//! Block letters for the words that have to be read at three metres.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// Rows of a letter at scale one.
pub const LETTER_ROWS: u16 = 5;

/// A letter is drawn at most this many times wider than it is tall, in cells; a cell is about twice as tall as wide.
const WIDEST: u16 = 2;

/// Draws `word` in the middle of `area`, as large as it fits; as plain text where not even scale one does.
pub fn draw_word(word: &str, area: Rect, style: Style, buf: &mut Buffer) {
    let width = word_width(word);
    let (across, down) = (area.width / width.max(1), area.height / LETTER_ROWS);
    if across == 0 || down == 0 || width == 0 {
        buf.set_stringn(area.x, area.y, word, usize::from(area.width), style);
        return;
    }
    let across = across.min(down * WIDEST);
    let down = down.min(across);
    let mut x = area.x + (area.width - width * across) / 2;
    let y = area.y + (area.height - LETTER_ROWS * down) / 2;
    for letter in word.chars().map(rows) {
        for (row, line) in (0u16..).zip(letter) {
            for (column, dot) in (0u16..).zip(line.bytes()) {
                if dot == b'#' {
                    let at = Rect::new(x + column * across, y + row * down, across, down);
                    fill(at, style, buf);
                }
            }
        }
        x += (letter_width(letter) + 1) * across;
    }
}

fn fill(area: Rect, style: Style, buf: &mut Buffer) {
    for position in area.positions() {
        buf[position].set_symbol("█").set_style(style);
    }
}

fn word_width(word: &str) -> u16 {
    let widths = word.chars().map(|c| letter_width(rows(c)) + 1);
    widths.sum::<u16>().saturating_sub(1)
}

fn letter_width(letter: [&str; 5]) -> u16 {
    u16::try_from(letter[0].len()).unwrap_or(0)
}

/// The letters of the verdicts' short words; any other character is a gap.
fn rows(c: char) -> [&'static str; 5] {
    match c {
        'A' => [".##.", "#..#", "####", "#..#", "#..#"],
        'E' => ["####", "#...", "###.", "#...", "####"],
        'F' => ["####", "#...", "###.", "#...", "#..."],
        'I' => ["###", ".#.", ".#.", ".#.", "###"],
        'J' => ["..#", "..#", "..#", "#.#", ".#."],
        'L' => ["#...", "#...", "#...", "#...", "####"],
        'N' => ["#..#", "##.#", "#.##", "#..#", "#..#"],
        'O' => [".##.", "#..#", "#..#", "#..#", ".##."],
        'P' => ["###.", "#..#", "###.", "#...", "#..."],
        'R' => ["###.", "#..#", "###.", "#.#.", "#..#"],
        'S' => [".###", "#...", ".##.", "...#", "###."],
        'T' => ["###", ".#.", ".#.", ".#.", ".#."],
        'U' => ["#..#", "#..#", "#..#", "#..#", ".##."],
        _ => ["..", "..", "..", "..", ".."],
    }
}
