//! The README says what is so: its picture is the screen's, and the tests that it names exist.

use dps_station::ui::picture;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- picture: made by scripts/picture -->\n```text\n";
const END: &str = "```\n<!-- end of picture -->";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

/// The screen of a simulated line, as it is pictured.
fn screen() -> String {
    let mut floor = crate::screens::four_bays();
    floor.simulated = true;
    let text = picture(&floor, floor.last_report_ms, 80, 24);
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[test]
fn the_picture_is_the_screens_own() {
    let text = fs::read_to_string(path()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the README has a picture");
    let (shown, after) = rest.split_once(END).expect("the picture ends");
    if std::env::var_os("UPDATE_PICTURE").is_some() {
        fs::write(path(), format!("{before}{BEGIN}{}{END}{after}", screen())).unwrap();
    } else {
        assert_eq!(shown, screen(), "run scripts/picture");
    }
}

#[test]
fn each_promise_names_a_test_that_exists() {
    let text = fs::read_to_string(path()).unwrap();
    let promises = text
        .split_once("| promise | test |")
        .expect("the table of promises")
        .1;
    let mut count = 0;
    for row in promises
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
    {
        there_is(row.split('`').nth(1).expect("each promise has a test"));
        count += 1;
    }
    assert_eq!(count, 13);
}

#[test]
fn the_promises_in_the_librarys_documentation_name_tests_that_exist() {
    let (_, promises) = include_str!("../../src/lib.rs")
        .split_once("# The promises")
        .expect("the list of promises");
    let promises = promises.split("\n\n").next().unwrap_or_default();
    let mut count = 0;
    for promise in promises.split(". **").skip(1) {
        let tests = promise.split('`').filter(|code| code.contains("::"));
        count += usize::from(tests.map(there_is).count() > 0);
    }
    assert_eq!(count, 14, "each has a test at least");
}

/// Fails unless this test exists.
fn there_is(name: &str) {
    let (module, function) = name.rsplit_once("::").expect("module::test");
    let file = format!("tests/it/{}.rs", module.replace("::", "/"));
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).expect(&file);
    assert!(
        source.contains(&format!("fn {function}(")),
        "{name} is not in {file}"
    );
}

#[test]
fn the_two_commands_are_there() {
    let text = fs::read_to_string(path()).unwrap();
    for script in [
        "scripts/demo",
        "scripts/test",
        "scripts/soak",
        "scripts/release",
    ] {
        assert!(text.contains(script), "{script}");
        assert!(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(script).exists(),
            "{script}"
        );
    }
}
