//! Whether a hub takes `initial_desired` and `initial_tags` as the beginning of a twin.
//!
//! A hub that does not would only say so weeks later, at a device's first boot. Source: Microsoft's "Understand and use
//! device twins in IoT Hub", sections "Device twin format" and "Device twin size". What DPS itself demands of an initial
//! twin is not documented.

use super::place::Wrong;
use serde_json::Value;

/// How deep objects may stand in one another.
const DEPTH_MAX: usize = 10;
/// The longest name, in bytes.
const NAME_MAX: usize = 1024;
/// The longest text, in bytes.
const TEXT_MAX: usize = 4096;
/// The largest that all desired properties may be, in bytes, as JSON.
const DESIRED_MAX: usize = 32 * 1024;
/// The largest that all tags may be, in bytes, as JSON.
const TAGS_MAX: usize = 8 * 1024;
/// Whole numbers lie from the negative of this to one below it.
const WHOLE_NUMBER_END: i64 = 1 << 52;
/// What the TOML parser makes of a date.
const DATE: &str = "$__toml_private_datetime";

/// A part of a twin.
#[derive(Clone, Copy)]
pub(super) enum Collection {
    Desired,
    Tags,
}

/// What is wrong with the values.
pub(super) fn check(values: &Value, collection: Collection) -> Result<(), Wrong> {
    let (name, max) = match collection {
        Collection::Desired => ("desired properties", DESIRED_MAX),
        Collection::Tags => ("tags", TAGS_MAX),
    };
    if !values.is_object() || is_date(values) {
        let what = format!("{name} are names with values: write a table, {{ … }}");
        return Err(Wrong::at(&[], what));
    }
    value(values, 0)?;
    let length = values.to_string().len();
    if length > max {
        let what = format!("a twin takes {max} bytes of {name}, and these may be {length}");
        return Err(Wrong::at(&[], what));
    }
    Ok(())
}

fn value(found: &Value, depth: usize) -> Result<(), Wrong> {
    let wrong = |what: String| Err(Wrong::at(&[], what));
    match found {
        Value::Object(_) if is_date(found) => {
            wrong("a twin has no dates: write it as text".to_owned())
        }
        Value::Object(_) if depth == DEPTH_MAX => wrong(format!(
            "a twin takes tables in tables {DEPTH_MAX} deep, and this is deeper"
        )),
        Value::Object(members) => members.iter().try_for_each(|(key, inner)| {
            let checked = name(key).and_then(|()| value(inner, depth + 1));
            checked.map_err(|wrong| wrong.under(&[&key]))
        }),
        Value::Array(list) => list.iter().enumerate().try_for_each(|(number, inner)| {
            value(inner, depth).map_err(|wrong| wrong.under(&[&number]))
        }),
        Value::String(text) if text.len() > TEXT_MAX => wrong(format!(
            "a twin takes texts of at most {TEXT_MAX} bytes, and this has {}",
            text.len()
        )),
        Value::Number(number)
            if number
                .as_i64()
                .is_some_and(|whole| !(-WHOLE_NUMBER_END..WHOLE_NUMBER_END).contains(&whole)) =>
        {
            let last = WHOLE_NUMBER_END - 1;
            wrong(format!(
                "a twin takes whole numbers from -{WHOLE_NUMBER_END} to {last}"
            ))
        }
        // JSON has neither, and TOML has no null.
        Value::Null => wrong("a twin has no numbers nan and inf".to_owned()),
        _ => Ok(()),
    }
}

fn name(key: &str) -> Result<(), Wrong> {
    let barred = |c: char| matches!(c, '$' | '.' | ' ') || c.is_control();
    match key.is_empty() || key.len() > NAME_MAX || key.contains(barred) {
        true => Err(Wrong::at(
            &[],
            format!(
                "a name in a twin has 1 to {NAME_MAX} bytes, and none of `$`, `.`, space and control characters"
            ),
        )),
        false => Ok(()),
    }
}

fn is_date(found: &Value) -> bool {
    found.get(DATE).is_some()
}
