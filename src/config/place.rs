//! Where the keys of `station.toml` stand, so that what is wrong is named with its key and its line.

use std::fmt::Display;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong, and at which key of the file.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The keys that lead there from the top; an entry of a list is its number, from 0.
    path: Vec<String>,
    what: String,
}

/// All keys of a file, and where its lines begin.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: Vec<Place>,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

/// A key of the file, or an entry of a list.
#[derive(Debug)]
struct Place {
    path: Vec<String>,
    /// The keys alone, joined by dots.
    name: String,
    key: Range<usize>,
    /// The value; of a table with a header of its own, that header.
    value: Range<usize>,
}

impl Wrong {
    /// What is wrong at the key that `path` leads to.
    pub fn at(path: &[&dyn Display], what: String) -> Self {
        Self {
            path: path.iter().map(ToString::to_string).collect(),
            what,
        }
    }

    /// The same where no file tells a line: the keys, and what is wrong there.
    pub fn told(&self) -> String {
        match self.path.is_empty() {
            true => self.what.clone(),
            false => format!("{}: {}", self.path.join("."), self.what),
        }
    }

    /// The same for one that was looked at by itself, and stands at `path` in the file.
    pub fn under(self, path: &[&dyn Display]) -> Self {
        let mut whole = Self::at(path, self.what);
        whole.path.extend(self.path);
        whole
    }
}

impl Places {
    /// The places of a text.
    ///
    /// # Errors
    ///
    /// The text is no TOML.
    pub fn of(text: &str) -> Result<Self, toml::de::Error> {
        let mut places = Self {
            places: Vec::new(),
            lines: lines_of(text),
        };
        places.table(DeTable::parse(text)?.get_ref(), &[], "");
        Ok(places)
    }

    /// Line, key and fault of what is wrong. What is not in the file stands where its table does.
    pub fn told(&self, wrong: Wrong) -> (usize, String) {
        let leads = |place: &&Place| wrong.path.starts_with(&place.path);
        let nearest = self.places.iter().filter(leads);
        match nearest.max_by_key(|place| place.path.len()) {
            Some(place) => self.named(place, &wrong.what),
            None => (1, wrong.what),
        }
    }

    /// The same for what the parser found wrong at a place in the file, in bytes.
    pub fn told_at(&self, offset: usize, what: &str) -> (usize, String) {
        let length = |place: &&Place| {
            let around = [&place.key, &place.value].into_iter();
            let around = around.filter(|span| span.contains(&offset));
            around.map(ExactSizeIterator::len).min()
        };
        let around = self.places.iter().filter(|place| length(place).is_some());
        match around.min_by_key(length) {
            Some(place) => (line(&self.lines, offset), format!("{}: {what}", place.name)),
            None => (line(&self.lines, offset), what.to_owned()),
        }
    }

    fn named(&self, place: &Place, what: &str) -> (usize, String) {
        (
            line(&self.lines, place.value.start),
            format!("{}: {what}", place.name),
        )
    }

    fn table(&mut self, table: &DeTable<'_>, path: &[String], name: &str) {
        for (key, value) in table {
            let word = key.get_ref().to_string();
            let name = match name {
                "" => word.clone(),
                name => format!("{name}.{word}"),
            };
            self.entry(key.span(), value, [path, &[word]].concat(), name);
        }
    }

    fn entry(
        &mut self,
        key: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        path: Vec<String>,
        name: String,
    ) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(table, &path, &name),
            DeValue::Array(list) => {
                for (number, value) in list.iter().enumerate() {
                    let path = [&path[..], &[number.to_string()]].concat();
                    self.entry(value.span(), value, path, name.clone());
                }
            }
            _ => {}
        }
        self.places.push(Place {
            path,
            name,
            key,
            value: value.span(),
        });
    }
}

/// The line, from 1, that a place in a text is in.
pub(super) fn line_in(text: &str, offset: usize) -> usize {
    line(&lines_of(text), offset)
}

fn lines_of(text: &str) -> Vec<usize> {
    let ends = text.match_indices('\n').map(|(end, _)| end + 1);
    std::iter::once(0).chain(ends).collect()
}

fn line(lines: &[usize], offset: usize) -> usize {
    lines.partition_point(|begins| *begins <= offset)
}
