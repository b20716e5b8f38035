//! How SQLite goes about each statement of the ledger: nothing that the running line asks or records reads a whole table.

use super::*;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs;

/// The statements that read a whole table, by how they begin, and why they may.
const WHOLE: [(&str, &str); 7] = [
    ("SELECT serial, purpose", "a list for people"),
    ("SELECT device, uid, state", "a list for people"),
    ("SELECT device, verdict, bay", "a list for people"),
    (
        "SELECT registration_id, dps",
        "an upload, once a pass, and lists",
    ),
    ("SELECT a.attempt, a.bay", "an index of those that are open"),
    ("SELECT state, count(*)", "a report, for people"),
    ("SELECT dps, waiting", "a row for each DPS instance"),
];

/// The plan of a statement, one step a line.
fn plan(db: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    statement.raw_query().mapped(|row| row.get(3)).collect()
}

/// Every statement in the sources of the ledger: a text that begins with one of SQL's verbs.
fn statements() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ledger");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut found = BTreeSet::new();
    for file in files.filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let source = fs::read_to_string(&file).unwrap();
        for (index, text) in source.split('"').enumerate() {
            let verb = text.split_whitespace().next().unwrap_or_default();
            let sql = matches!(verb, "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "WITH");
            // A text is what stands between an odd quotation mark and the next; no SQL here has one inside.
            if sql && index % 2 == 1 {
                let words = text.split_whitespace().filter(|word| *word != "\\");
                found.insert(words.collect::<Vec<_>>().join(" "));
            }
        }
    }
    found
}

#[tokio::test]
async fn no_statement_of_the_running_line_reads_a_whole_table() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    open(&path).close().await.unwrap();
    let db = Connection::open(&path).unwrap();
    let statements = statements();
    assert!(statements.len() > 60, "{}", statements.len());
    let mut scans = Vec::new();
    for sql in &statements {
        let sql = sql.replace("{columns}", "*");
        let Ok(steps) = plan(&db, &sql) else {
            assert!(sql.contains('{'), "{sql}");
            continue;
        };
        let of_none = |step: &str| step.contains("CONSTANT ROW") || step.contains("sqlite_");
        // The first or last row in the order of an index or of the table itself.
        let one = sql.contains("LIMIT 1") && !steps.iter().any(|step| step.contains("B-TREE"));
        let allowed = one || WHOLE.iter().any(|(begin, _)| sql.starts_with(begin));
        let scan = |step: &&String| step.starts_with("SCAN ") && !of_none(step);
        for step in steps.iter().filter(scan).filter(|_| !allowed) {
            scans.push(format!("{step}: {sql}"));
        }
    }
    assert!(scans.is_empty(), "{}", scans.join("\n"));
}

/// A row that goes, or whose key changes, has SQLite look for those that refer to it.
#[tokio::test]
async fn every_reference_is_found_from_both_its_ends() {
    let folder = folder();
    let path = folder.path().join("ledger.sqlite");
    open(&path).close().await.unwrap();
    let db = Connection::open(&path).unwrap();
    let sql = "SELECT child.name, link.\"from\" FROM sqlite_schema AS child
         JOIN pragma_foreign_key_list(child.name) AS link
         WHERE child.type = 'table' AND link.\"table\" = 'unit'";
    let mut statement = db.prepare(sql).unwrap();
    let links = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let links: Vec<(String, String)> = links.unwrap().map(Result::unwrap).collect();
    assert!(links.len() > 3, "{links:?}");
    for (table, column) in links {
        let steps = plan(&db, &format!("SELECT 1 FROM {table} WHERE {column} = ?")).unwrap();
        assert!(
            steps.iter().all(|step| step.starts_with("SEARCH")),
            "{table}: {steps:?}"
        );
    }
}
