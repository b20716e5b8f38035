//! What all of the ledger's SQL is written with: rows, and the words that stand in columns.

use super::failure::Failure;
use rusqlite::{Connection, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The word that stands for `value` in a column: its serde name.
pub fn word<T: Serialize>(value: &T) -> Result<String, Failure> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(other) => Err(Failure::Damaged(format!("{other} is not a word"))),
        Err(error) => Err(Failure::unstorable(error)),
    }
}

/// The value that a column's word stands for.
pub fn unword<T: DeserializeOwned>(word: &str) -> Result<T, Failure> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|error| Failure::Damaged(error.to_string()))
}

/// What `read` makes of each row.
pub fn rows<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The value that the word in a column stands for.
pub fn column_word<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> Result<T, Failure> {
    unword(&row.get::<_, String>(index)?)
}

/// The same where the column may be empty.
pub fn optional_word<T: DeserializeOwned>(
    row: &Row<'_>,
    index: usize,
) -> Result<Option<T>, Failure> {
    let word: Option<String> = row.get(index)?;
    word.as_deref().map(unword).transpose()
}
