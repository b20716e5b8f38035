//! Text that others wrote, made safe to show.
//!
//! Invariant: what comes out is bounded and has nothing in it that moves a cursor or turns a line around.

/// Makes foreign text safe for a screen, a file or a label: at most `max` characters, control characters and
/// everything that is not printable replaced by `?`.
///
/// Direction marks and zero-width characters go too: they can make one ID look like another.
pub fn harmless(text: &str, max: usize) -> String {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars()
        .take(max)
        .map(|c| if bad(c) { '?' } else { c })
        .collect()
}

/// The longest that the system or a library is quoted, in characters.
const SAID_MAX: usize = 200;

/// What the system or a library said, made harmless and bounded.
pub fn said(error: &impl ToString) -> String {
    harmless(&error.to_string(), SAID_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_bounded_and_has_no_escapes() {
        assert_eq!(harmless("a\x1b[31mb\r\n\u{202e}c", 80), "a?[31mb???c");
        assert_eq!(harmless(&"x".repeat(100), 5), "xxxxx");
    }
}
