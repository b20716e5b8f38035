//! `station enroll --csv`: every line of a list is classed, what is new goes on record, and the upload is the ordinary one.

mod reading;

use super::{Context, Exit, Failure, name_left, settle};
use crate::commands::parts;
use crate::config::{self, Config, DpsConfig};
use crate::ledger::{Happened, Ledger};
use crate::provision::bytes::Blob;
use crate::provision::bytes::Digest;
use crate::provision::content::Content;
use crate::provision::event::{EnrolledIdentity, Enrollment, Event, Listing};
use crate::provision::fault::{harmless, said};
use crate::provision::list::{
    Class, Column, Entry, Flaw, Header, Keys, Means, Row, Trouble, Twice, class, leaf,
};
use crate::words;
use reading::Reading;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines that are looked up and put on record together.
const TOGETHER: usize = 500;
/// The longest that is kept of the list's name, in characters.
const NAME_MAX: usize = 200;
/// The largest file with a certificate that is read, in bytes.
const CERTIFICATE_MAX: u64 = 64 * 1024;
/// The largest that the tags of a twin may be, in bytes, as JSON (Microsoft's "Understand and use device twins in IoT
/// Hub", section "Device twin size").
const TAGS_MAX: usize = 8 * 1024;

/// A list, and where what it lists is to be enrolled.
pub(super) struct List<'a> {
    pub file: &'a Path,
    pub dps: &'a DpsConfig,
    pub dry_run: bool,
    /// For how long to go on trying, if that was said.
    pub wait: Option<Duration>,
}

/// A line that was read.
struct Line {
    number: u64,
    /// What it calls its registration ID, harmless.
    named: String,
    said: Result<Listing, Trouble>,
}

/// Classes each line, puts what is new on record, and drains the outbox.
pub(super) async fn enroll(
    context: &Context,
    config: &Config,
    ledger: &Ledger,
    list: &List<'_>,
) -> Result<Exit, Failure> {
    if !list.dry_run {
        parts::dps(config, list.dps)?; // whatever is wrong with it is said before anything is on record
    }
    let (twice, digest) = look_through(list)?;
    let classed = class_all(context, ledger, list, &twice, digest).await?;
    let all_good = classed.print(context, list)?;
    let uploaded = match list.dry_run {
        true => Exit::Done,
        false => settle(context, config, list.dps, ledger, list.wait).await?,
    };
    let left = name_left(context, ledger, &list.dps.name).await?;
    Ok(match all_good {
        true if left == Exit::Done => uploaded,
        _ => Exit::Incomplete,
    })
}

/// Reads the list once, for what stands in it twice and for its digest.
fn look_through(list: &List<'_>) -> Result<(Twice, Digest), Failure> {
    let mut reading = Reading::open(list.file)?;
    let others = reading.header().others.join(", ");
    if !others.is_empty() {
        eprintln!(
            "station: {} has columns that are not read: {others}",
            list.file.display()
        );
    }
    let mut twice = Twice::default();
    while let Some(row) = reading.next()? {
        let line = line(reading.header(), row, list, Digest::of(b""));
        if let Ok(listing) = &line.said {
            twice.note(line.number, &keys(listing));
        }
    }
    Ok((twice, reading.digest()))
}

/// How many lines are what.
struct Classed {
    counts: BTreeMap<&'static str, u64>,
    lines: u64,
    bad: u64,
}

impl Classed {
    fn count(&mut self, class: &Class) {
        *self.counts.entry(class.word()).or_default() += 1;
        self.lines += 1;
        self.bad += u64::from(class.is_bad());
    }

    /// Prints the sum, and says whether no line is bad.
    fn print(&self, context: &Context, list: &List<'_>) -> Result<bool, Failure> {
        let file = harmless(&list.file.display().to_string(), NAME_MAX);
        let counted = self
            .counts
            .iter()
            .map(|(word, count)| format!(", {count} {word}"));
        let text = format!(
            "{file}: {} lines{}",
            self.lines,
            counted.collect::<String>()
        );
        let mut object = json!({"list": file, "dps": list.dps.name, "lines": self.lines});
        for word in ["new", "same", "differs", "malformed", "twice", "known"] {
            object[word] = json!(self.counts.get(word).unwrap_or(&0));
        }
        context.print(&object, &text)?;
        Ok(self.bad == 0)
    }
}

/// Reads the list again, classes each line, and puts on record what is new.
async fn class_all(
    context: &Context,
    ledger: &Ledger,
    list: &List<'_>,
    twice: &Twice,
    digest: Digest,
) -> Result<Classed, Failure> {
    let mut reading = Reading::open(list.file)?;
    let mut classed = Classed {
        counts: BTreeMap::new(),
        lines: 0,
        bad: 0,
    };
    loop {
        let mut lines = Vec::new();
        while lines.len() < TOGETHER
            && let Some(row) = reading.next()?
        {
            lines.push(line(reading.header(), row, list, digest));
        }
        if lines.is_empty() {
            break;
        }
        for (number, named, class) in class_some(ledger, list, twice, lines).await? {
            classed.count(&class);
            if context.json || list.dry_run || class.is_bad() {
                show(context, number, &named, &class)?;
            }
        }
    }
    match reading.digest() == digest {
        true => Ok(classed),
        false => Err(Failure::usage(format!(
            "{} was changed while it was read: give it again",
            list.file.display()
        ))),
    }
}

/// Classes some lines, and puts those that are new on record in one commit.
async fn class_some(
    ledger: &Ledger,
    list: &List<'_>,
    twice: &Twice,
    lines: Vec<Line>,
) -> Result<Vec<(u64, String, Class)>, Failure> {
    let mut asked = Vec::new();
    let mut classes = Vec::new();
    for line in &lines {
        classes.push(match &line.said {
            Err(trouble) => Some(Class::Malformed(trouble.clone())),
            Ok(listing) => match twice.other(line.number, &keys(listing)) {
                Some(other) => Some(Class::Twice(other)),
                None => {
                    asked.push(listing.clone());
                    None
                }
            },
        });
    }
    let mut found = ledger.on_record(asked.clone()).await?.into_iter();
    let mut fresh = Vec::new();
    let mut listings = asked.into_iter();
    for class in classes.iter_mut().filter(|class| class.is_none()) {
        let (listing, found) = (
            listings.next().expect("asked"),
            found.next().expect("answered"),
        );
        let is = self::class(&listing.enrollment, found);
        if is == Class::New {
            fresh.push(Happened {
                at_ms: None,
                product_digest: None,
                event: Event::Listed(Box::new(listing)),
            });
        }
        *class = Some(is);
    }
    if !list.dry_run && !fresh.is_empty() {
        let recorded = ledger.record_all(fresh).await;
        recorded.map_err(|refused| Failure::from(refused.error))?;
    }
    let named = lines.into_iter().map(|line| (line.number, line.named));
    let classes = classes.into_iter().flatten();
    Ok(named
        .zip(classes)
        .map(|((number, named), class)| (number, named, class))
        .collect())
}

fn show(context: &Context, number: u64, named: &str, class: &Class) -> Result<(), Failure> {
    let why = words::class(class);
    let said = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let name = Some(named).filter(|named| !named.is_empty());
    let object = json!({
        "line": number, "registration_id": name, "class": class.word(), "why": why,
    });
    let name = name.map_or(String::new(), |name| format!(", {name}"));
    context.print(
        &object,
        &format!("line {number}{name}: {}{said}", class.word()),
    )
}

/// What a row asks for, as it would go on record.
fn line(header: &Header, row: Row, list: &List<'_>, digest: Digest) -> Line {
    let number = row.line;
    let mut named = String::new();
    let said = row.fields.and_then(|fields| {
        named = harmless(header.named(&fields), NAME_MAX);
        let entry = header.entry(&fields)?;
        named = entry.registration_id.to_string();
        let (identity, public_key) = identity(&entry, list.file)?;
        Ok(Listing {
            enrollment: Enrollment {
                dps: list.dps.name.clone(),
                registration_id: entry.registration_id,
                device_id: entry.device_id,
                identity,
                initial_desired: None,
                initial_tags: tags(entry.tags)?,
                content: Content::default(),
            },
            public_key,
            file: harmless(&list.file.display().to_string(), NAME_MAX),
            file_sha256: digest,
            line: number,
        })
    });
    Line {
        number,
        named,
        said,
    }
}

fn identity(entry: &Entry, list: &Path) -> Result<(EnrolledIdentity, Option<Blob>), Trouble> {
    let path = match &entry.means {
        Means::Tpm(endorsement_key) => {
            let identity = EnrolledIdentity::Tpm {
                endorsement_key: endorsement_key.clone(),
                storage_root_key: Blob::default(),
            };
            return Ok((identity, None));
        }
        Means::X509(path) => list.parent().unwrap_or(Path::new("")).join(path),
    };
    let wrong = |flaw| Trouble::In(Column::Certificate, flaw);
    let file = certificate_file(&path).map_err(|why| wrong(Flaw::File(why)))?;
    let leaf = leaf(&file, &entry.registration_id);
    let leaf = leaf.map_err(|flaw| wrong(Flaw::Certificate(flaw)))?;
    let identity = EnrolledIdentity::X509 {
        certificate: leaf.der,
    };
    Ok((identity, Some(leaf.public_key)))
}

/// The bytes of a file that may hold a certificate. A device or a pipe could be read for ever.
fn certificate_file(path: &PathBuf) -> Result<Vec<u8>, String> {
    let about = std::fs::metadata(path).map_err(|error| said(&error))?;
    if !about.is_file() {
        return Err("it is no file".to_owned());
    }
    if about.len() > CERTIFICATE_MAX {
        return Err(format!("it has more than {CERTIFICATE_MAX} bytes"));
    }
    std::fs::read(path).map_err(|error| said(&error))
}

/// Tags that a twin takes.
fn tags(tags: Option<Value>) -> Result<Option<Value>, Trouble> {
    let Some(tags) = tags else {
        return Ok(None);
    };
    let wrong = |why| Trouble::In(Column::Tags, Flaw::Twin(why));
    let length = tags.to_string().len();
    if length > TAGS_MAX {
        return Err(wrong(format!(
            "a twin takes {TAGS_MAX} bytes of tags, and these are {length}"
        )));
    }
    config::twin_takes_tags(&tags).map_err(wrong)?;
    Ok(Some(tags))
}

/// What no other line may share with this one.
fn keys(listing: &Listing) -> Keys {
    let enrollment = &listing.enrollment;
    let own = enrollment.identity.reference().digest();
    let identity = listing
        .public_key
        .as_ref()
        .map_or(own, |key| Digest::of(&key.0));
    let tags = enrollment.initial_tags.as_ref().map(Value::to_string);
    let (id, device) = (
        enrollment.registration_id.as_str(),
        enrollment.device_id.as_str(),
    );
    Keys {
        registration_id: Digest::of(id.as_bytes()),
        device_id: Digest::of(device.as_bytes()),
        identity,
        whole: Digest::of_parts(&[
            &Digest::of(id.as_bytes()).0,
            &Digest::of(device.as_bytes()).0,
            &own.0,
            tags.unwrap_or_default().as_bytes(),
        ]),
    }
}
