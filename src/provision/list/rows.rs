//! The rows of a list: physical lines, joined where a quoted field goes over several, and cut into fields.
//!
//! Invariant: each line belongs to exactly one row, and a quotation mark that nobody closes spoils its own line only.

use super::Trouble;
use csv_core::ReaderBuilder;
use std::collections::VecDeque;

/// The longest that a row may be, in bytes.
pub const LINE_MAX: usize = 64 * 1024;
/// Lines that a quoted field may go over.
const JOINED_MAX: usize = 100;

/// What stands between two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// As the format's name says.
    Comma,
    /// As spreadsheets write where a comma stands in numbers.
    Semicolon,
    /// As spreadsheets copy.
    Tab,
}

/// One row of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The number of its first line, from 1.
    pub line: u64,
    /// Its fields, or why it has none.
    pub fields: Result<Vec<String>, Trouble>,
}

/// A line as it was read, without its end; `None` where it is longer than [`LINE_MAX`].
type Line = Option<Vec<u8>>;

/// How a line ends.
enum Ending {
    /// Every field is closed.
    Closed,
    /// A quoted field is not.
    Open,
    /// Something stands behind the mark that closes a field.
    Amiss,
}

/// Makes rows of lines.
#[derive(Debug)]
pub struct Rows {
    separator: Separator,
    /// How many fields a row has; absent while that is not known.
    width: Option<usize>,
    waiting: VecDeque<Line>,
    /// The number of the first line that waits.
    first: u64,
}

impl Separator {
    /// What stands between the fields of this header.
    pub fn of(header: &[u8]) -> Self {
        let has = |byte| header.contains(&byte);
        match (has(b','), has(b';'), has(b'\t')) {
            (false, true, _) => Self::Semicolon,
            (false, false, true) => Self::Tab,
            _ => Self::Comma,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Semicolon => b';',
            Self::Tab => b'\t',
        }
    }
}

impl Rows {
    /// Rows of lines of which the first has the number 1.
    pub fn new(separator: Separator) -> Self {
        Self {
            separator,
            width: None,
            waiting: VecDeque::new(),
            first: 1,
        }
    }

    /// From now on, lines that make a row of another width together are taken for rows of their own.
    pub fn expect(&mut self, width: usize) {
        self.width = Some(width);
    }

    /// Takes the next line, which may have a carriage return at its end; `None` for one that is too long.
    pub fn push(&mut self, mut line: Option<Vec<u8>>) {
        if let Some(line) = &mut line
            && line.last() == Some(&b'\r')
        {
            line.pop();
        }
        self.waiting.push_back(line);
    }

    /// The next row; `None` where more lines are needed, or where they are at their `end` and none is left. An empty line
    /// is no row.
    pub fn next(&mut self, end: bool) -> Option<Row> {
        loop {
            let row = match self.waiting.front()? {
                None => self.take(1, Err(Trouble::TooLong)),
                Some(first) if first.is_empty() => {
                    self.drop_first(1);
                    continue;
                }
                Some(first) => match self.ending(first, false) {
                    Ending::Closed => {
                        let fields = self.fields(first);
                        self.take(1, fields)
                    }
                    Ending::Amiss => self.take(1, Err(Trouble::Quotes)),
                    Ending::Open => match self.closing_line(first, end)? {
                        Some(last) => self.take_joined(last),
                        None => self.take(1, Err(Trouble::Quotes)),
                    },
                },
            };
            return Some(row);
        }
    }

    /// The line, counted from the first, that closes the field which `first` leaves open: `Some(None)` where none does,
    /// `None` where more lines must be seen.
    fn closing_line(&self, first: &[u8], end: bool) -> Option<Option<usize>> {
        let mut length = first.len();
        for (place, line) in self.waiting.iter().enumerate().skip(1).take(JOINED_MAX) {
            let Some(line) = line else {
                return Some(None);
            };
            length += line.len() + 1;
            if length > LINE_MAX {
                return Some(None);
            }
            match self.ending(line, true) {
                Ending::Open => {}
                Ending::Closed => return Some(Some(place)),
                Ending::Amiss => return Some(None),
            }
        }
        (end || self.waiting.len() > JOINED_MAX).then_some(None)
    }

    /// How a line ends that begins within a quoted field, or not.
    fn ending(&self, line: &[u8], mut quoted: bool) -> Ending {
        let mut begins = !quoted;
        let mut bytes = line.iter().peekable();
        while let Some(&byte) = bytes.next() {
            match (quoted, byte) {
                (true, b'"') => match bytes.peek() {
                    Some(b'"') => {
                        bytes.next();
                    }
                    Some(&&after) if after != self.separator.byte() => return Ending::Amiss,
                    _ => quoted = false,
                },
                (false, b'"') if begins => quoted = true,
                _ => {}
            }
            begins = !quoted && byte == self.separator.byte();
        }
        match quoted {
            true => Ending::Open,
            false => Ending::Closed,
        }
    }

    /// Takes the lines until `last` for one row, if that has as many fields as it should.
    fn take_joined(&mut self, last: usize) -> Row {
        let lines = self.waiting.iter().take(last + 1).flatten();
        let joined = lines.map(Vec::as_slice).collect::<Vec<_>>().join(&b'\n');
        let fields = self.fields(&joined);
        match (&fields, self.width) {
            (Ok(found), Some(width)) if found.len() != width => self.take(1, Err(Trouble::Quotes)),
            _ => self.take(last + 1, fields),
        }
    }

    fn fields(&self, row: &[u8]) -> Result<Vec<String>, Trouble> {
        let text = std::str::from_utf8(row).map_err(|_| Trouble::NotUtf8)?;
        let mut reader = ReaderBuilder::new()
            .delimiter(self.separator.byte())
            .build();
        // What is read is never longer than the row, and each field but the last has a separator.
        let mut read = vec![0; text.len() + 1];
        let mut ends = vec![0; text.len() + 2];
        let (_, _, length, count) = reader.read_record(text.as_bytes(), &mut read, &mut ends);
        // Without input, it learns that there is no more.
        let (_, _, _, more) = reader.read_record(&[], &mut read[length..], &mut ends[count..]);
        let mut begin = 0;
        let mut fields = Vec::new();
        for end in &ends[..count + more] {
            fields.push(String::from_utf8_lossy(&read[begin..*end]).into_owned());
            begin = *end;
        }
        Ok(fields)
    }

    fn take(&mut self, lines: usize, fields: Result<Vec<String>, Trouble>) -> Row {
        let line = self.first;
        self.drop_first(lines);
        Row { line, fields }
    }

    fn drop_first(&mut self, lines: usize) {
        self.waiting.drain(..lines);
        self.first += lines as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    /// The rows of a text that is pushed line by line.
    fn rows(text: &str, width: usize) -> Vec<Row> {
        let mut rows = Rows::new(Separator::of(text.lines().next().unwrap_or("").as_bytes()));
        rows.expect(width);
        let mut found = Vec::new();
        for line in text.split('\n') {
            let bytes = line.as_bytes().to_vec();
            rows.push((bytes.len() <= LINE_MAX).then_some(bytes));
            while let Some(row) = rows.next(false) {
                found.push(row);
            }
        }
        while let Some(row) = rows.next(true) {
            found.push(row);
        }
        found
    }

    fn good(line: u64, fields: &[&str]) -> Row {
        Row {
            line,
            fields: Ok(fields.iter().map(ToString::to_string).collect()),
        }
    }

    fn bad(line: u64, trouble: Trouble) -> Row {
        Row {
            line,
            fields: Err(trouble),
        }
    }

    #[test]
    fn quotes_commas_ends_of_lines_and_empty_lines_are_read_as_spreadsheets_write_them() {
        let text = "a,b\r\n\r\n\"1,2\",\"say \"\"x\"\"\"\r\n5\" wide,\r\n\"two\nlines\",z";
        let wanted = [
            good(1, &["a", "b"]),
            good(3, &["1,2", "say \"x\""]),
            good(4, &["5\" wide", ""]),
            good(5, &["two\nlines", "z"]),
        ];
        assert_eq!(rows(text, 2), wanted);
        assert_eq!(
            rows("a;b\n1;2,3", 2),
            [good(1, &["a", "b"]), good(2, &["1", "2,3"])]
        );
        assert_eq!(
            rows("a\tb\n1\t2", 2),
            [good(1, &["a", "b"]), good(2, &["1", "2"])]
        );
    }

    #[test]
    fn a_quote_that_nobody_closes_spoils_its_own_line_only() {
        let open = |line| bad(line, Trouble::Quotes);
        let all = rows("a,b\n\"1,2\n3,4\n\"5,6\n7,8", 2);
        assert_eq!(
            all,
            [
                good(1, &["a", "b"]),
                open(2),
                good(3, &["3", "4"]),
                open(4),
                good(5, &["7", "8"])
            ]
        );
        let long = format!("\"1,2\n{}", "3,4\n".repeat(300));
        let all = rows(&long, 2);
        assert_eq!((all.len(), &all[0]), (301, &open(1)));
    }

    #[test]
    fn a_line_without_an_end_is_bounded_and_named() {
        let text = format!("a,b\n{}\n1,2", "x".repeat(LINE_MAX + 1));
        let wanted = [
            good(1, &["a", "b"]),
            bad(2, Trouble::TooLong),
            good(3, &["1", "2"]),
        ];
        assert_eq!(rows(&text, 2), wanted);
        let mut latin = Rows::new(Separator::Comma);
        latin.push(Some(b"\xe9,2".to_vec()));
        assert_eq!(latin.next(true), Some(bad(1, Trouble::NotUtf8)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(13), ..ProptestConfig::default() })]

        #[test]
        fn what_is_quoted_is_read_as_it_was_written(
            table in prop::collection::vec(prop::collection::vec("[a-z,;\"\\n ]{0,8}", 3), 1..20)
        ) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let line = |fields: &Vec<String>| fields.iter().map(quoted).collect::<Vec<_>>().join(",");
            let text = table.iter().map(line).collect::<Vec<_>>().join("\n");
            let mut rows = Rows::new(Separator::Comma);
            rows.expect(3);
            text.split('\n').for_each(|line| rows.push(Some(line.into())));
            let read: Vec<_> = std::iter::from_fn(|| rows.next(true)).map(|row| row.fields).collect();
            prop_assert_eq!(read, table.into_iter().map(Ok).collect::<Vec<_>>());
        }

        #[test]
        fn whatever_stands_there_each_line_is_in_one_row(text in "[ab,\"\\n]{0,200}") {
            let mut next = 1;
            for row in rows(&text, 2) {
                prop_assert!(row.line >= next);
                next = row.line + 1;
            }
            let lines = text.split('\n').count() as u64;
            prop_assert!(next <= lines + 1);
        }
    }
}
