//! The wire trace of the real program: it shows what happened, holds no secret, stays small, and reads any file.

use crate::support::{Factory, Place, Running, entries, run};
use data_encoding::{BASE64, HEXLOWER};
use dps_station::fixtures::pty::Pty;
use dps_station::fixtures::rig::CREDENTIAL_FILE;
use dps_station::link::smp::{self, Map, Op, Packet, frame, group};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The largest that the trace of one failed attempt may be, in bytes.
const DUMP_MAX: u64 = 2 << 20;
/// A flood in one attempt fills it at least to here, or the test is none of the bound.
const FLOODED: u64 = 512 << 10;

/// A factory that ran once with everything traced, and with this scenario in its first bay.
fn traced(devices: u16, scenario: &str, code: i32) -> Factory {
    let factory = Factory::new(Place::own(), devices);
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scenarios");
    let mut demo = factory.demo();
    demo.arg("--scenario").arg(scenarios.join(scenario));
    let ended = run(demo.arg("--trace").arg(everything(&factory)));
    assert_eq!(ended.code(), Some(code), "{ended:?}");
    factory
}

/// The file that has everything.
fn everything(factory: &Factory) -> PathBuf {
    factory.dir().with_file_name("everything.trace")
}

/// The traces of failed attempts.
fn dumps(factory: &Factory) -> Vec<PathBuf> {
    let folder = factory.dir().join("ledger.sqlite-traces");
    let Ok(files) = fs::read_dir(folder) else {
        return Vec::new();
    };
    files.map(|file| file.unwrap().path()).collect()
}

/// What `trace show` says, as objects and as text; run where there is no `station.toml`.
fn shown(file: &Path, arguments: &[&str], code: i32) -> (Vec<Value>, String) {
    let show = |json: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_station"));
        command.args(["trace", "show"]).arg(file).args(arguments);
        let ended = run(command.args(json).current_dir("/"));
        assert_eq!(ended.code(), Some(code), "{ended:?}");
        ended
    };
    let (objects, text) = (show(&["--json"]).objects(), show(&[]).stdout);
    assert_eq!(objects.len(), text.lines().count());
    (objects, text)
}

fn of<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let wanted = |record: &&Value| record["kind"] == kind;
    records.iter().filter(wanted).collect()
}

/// The packets of which nothing is hidden.
fn shown_whole(records: &[Value]) -> Vec<&Value> {
    let whole = |record: &&Value| record["hidden"].is_null();
    of(records, "wire").into_iter().filter(whole).collect()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// The packet of a record, by the link's own codec.
fn packet(record: &Value) -> Packet {
    let bytes = HEXLOWER.decode(text(&record["bytes"]).as_bytes()).unwrap();
    Packet::decode(&bytes).unwrap()
}

#[test]
fn a_unit_that_fails_leaves_what_happened() {
    let factory = traced(2, "wrong_read_back.toml", 1);
    let dumps = dumps(&factory);
    let [dump] = &dumps[..] else {
        panic!("one unit failed: {dumps:?}");
    };
    let (records, lines) = shown(dump, &[], 0);
    assert_eq!(records[0]["kind"], "begin");
    assert!(records[1..].iter().all(|record| record["bay"] == "1"));

    // It ends with the verdict of the attempt that it is named after.
    let verdict = records.last().unwrap();
    assert_eq!(
        (&verdict["kind"], &verdict["event"]),
        (&"verdict".into(), &"failed".into())
    );
    assert_eq!(verdict["fault"], "does_not_hold");
    let attempt = text(&verdict["attempt"]);
    assert!(
        dump.to_str()
            .unwrap()
            .ends_with(&format!("-1-{attempt}.trace"))
    );
    let failed = entries(&factory.ledger(), 0);
    assert!(failed.iter().any(|entry| entry.kind == "failed"));

    // Its packets are those of a conversation: each answer is to a question before it.
    let mut asked = Vec::new();
    for record in shown_whole(&records) {
        let packet = packet(record);
        assert_eq!(record["header"]["sequence"], packet.header.sequence);
        match text(&record["direction"]) {
            "out" => asked.push(packet.header.reply()),
            _ => assert!(asked.contains(&packet.header), "{record}"),
        }
    }
    wrong_value_was_read_after_the_restart(&records);
    for said in [
        "settings value",
        "os reset",
        "reading back begins",
        "does_not_hold",
    ] {
        assert!(lines.contains(said), "{said:?} is not in {lines}");
    }
}

/// The ID scope was written, the device started anew, and then gave another one.
fn wrong_value_was_read_after_the_restart(records: &[Value]) {
    let packets: Vec<_> = shown_whole(records).into_iter().map(packet).collect();
    let at = |wanted: &dyn Fn(&Packet) -> bool| packets.iter().position(wanted);
    let setting = |packet: &Packet, op: Op| {
        packet.header.op == op
            && (packet.header.group, packet.header.command) == (smp::SETTINGS_GROUP, smp::SETTING)
            && packet.body.get_text("name") == Ok("dps/id_scope")
    };
    let written = at(&|packet| setting(packet, Op::Write)).unwrap();
    let restarted =
        at(&|packet| (packet.header.group, packet.header.command) == (smp::OS_GROUP, smp::RESET));
    let read = at(&|packet| setting(packet, Op::Read)).unwrap();
    assert!(Some(written) < restarted && restarted < Some(read));
    let held = packets[read..]
        .iter()
        .find_map(|packet| packet.body.get_bytes("val").ok());
    assert!(held.is_some() && held != packets[written].body.get_bytes("val").ok());
}

#[test]
fn everything_is_traced_and_nothing_secret() {
    let factory = traced(4, "wrong_read_back.toml", 1);
    let everything = everything(&factory);
    let (records, _) = shown(&everything, &[], 0);
    for (kind, wanted) in [
        ("wire", "header"),
        ("step", "phase"),
        ("tpm", "rc"),
        ("hsm", "took_us"),
        ("dps", "status"),
        ("verdict", "attempt"),
    ] {
        let of_kind = of(&records, kind);
        assert!(
            of_kind.iter().any(|record| !record[wanted].is_null()),
            "{kind}"
        );
    }
    let began = of(&records, "step")
        .into_iter()
        .filter(|step| step["phase"] == "begins");
    let ended = of(&records, "step")
        .into_iter()
        .filter(|step| step["phase"] == "ends");
    assert_eq!(began.count(), ended.count());
    let signed = of(&records, "hsm")
        .into_iter()
        .filter(|call| call["call"] == "sign");
    assert_eq!(signed.count(), factory.reservations().len());
    let paths: Vec<_> = of(&records, "dps")
        .iter()
        .map(|call| text(&call["path"]))
        .collect();
    assert!(paths.contains(&"/enrollments"), "{paths:?}");
    let (of_bay, _) = shown(&everything, &["--bay", "2"], 0);
    assert!(!of_bay.is_empty() && of_bay.iter().all(|record| record["bay"] == "2"));

    // Of what goes to a TPM and comes from it, the header, and no more.
    let to_tpm = |record: &&Value| {
        let header = &record["header"];
        header["group"] == group::GROUP && header["command"] == group::TPM
    };
    let wire = of(&records, "wire");
    let tpm: Vec<_> = wire.into_iter().filter(to_tpm).collect();
    assert!(!tpm.is_empty());
    for record in tpm {
        assert_eq!(
            text(&record["bytes"]).len(),
            2 * smp::HEADER_LENGTH,
            "{record}"
        );
        assert_eq!(record["hidden"], record["header"]["length"]);
    }
    let mut files = dumps(&factory);
    assert!(!files.is_empty());
    files.push(everything);
    for file in files {
        assert_no_secret(&factory, &file);
    }
}

/// Neither as it is nor in hexadecimal is a secret of the factory in a file.
fn assert_no_secret(factory: &Factory, file: &Path) {
    let found = fs::read_to_string(file).unwrap();
    let credential = factory.text(CREDENTIAL_FILE);
    let key = credential.trim().split("SharedAccessKey=").nth(1).unwrap();
    let raw = BASE64.decode(key.as_bytes()).unwrap();
    let pin = factory.text("rig/hsm/pin");
    for secret in [
        pin.as_bytes(),
        key.as_bytes(),
        &raw[..],
        b"SharedAccess",
        b"sig=",
    ] {
        let hex = HEXLOWER.encode(secret);
        assert!(!found.contains(&hex), "{hex} in {}", file.display());
        let plain = String::from_utf8_lossy(secret);
        assert!(!found.contains(&*plain), "{plain} in {}", file.display());
    }
}

#[test]
fn a_line_on_which_all_is_well_leaves_no_trace() {
    let factory = Factory::new(Place::own(), 2);
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(dumps(&factory), [] as [PathBuf; 0]);

    // And what is no trace is never overwritten by one.
    let ledger = fs::read(factory.ledger()).unwrap();
    let mut refused = factory.station(&["run", "--headless", "--json"]);
    refused.arg("--trace").arg(factory.ledger());
    let ended = run(&mut refused);
    assert_eq!(ended.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("is no trace: "), "{ended:?}");
    assert_eq!(fs::read(factory.ledger()).unwrap(), ledger);
}

#[test]
fn a_device_that_floods_its_bay_leaves_a_bounded_trace() {
    let factory = Factory::new(Place::own(), 1);
    let ended = run(factory.demo().args(["--until", "passed"]));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let config = factory.text("station.toml");
    let config = config
        .replace("rig/bay-1", "flooded")
        .replace("rig/bay-", "nothing-");
    fs::write(factory.dir().join("station.toml"), config).unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut pty = runtime.block_on(async { Pty::open(&factory.dir().join("flooded")).unwrap() });
    let whole = Packet {
        header: smp::Header {
            version: smp::Version::Two,
            op: Op::ReadReply,
            group: smp::OS_GROUP,
            sequence: 0,
            command: smp::ECHO,
        },
        body: Map::new().text("r", &"x".repeat(1000)),
    };
    let lines = frame::encode(&whole.encode(), frame::LINE_LENGTH)
        .unwrap()
        .concat();
    let flood = runtime.spawn(async move { while pty.write_all(&lines).await.is_ok() {} });

    let mut station = Running::start(&mut factory.station(&["run", "--headless"]));
    while !station
        .line()
        .expect("the attempt ends")
        .contains("\"interrupted\"")
    {}
    station.say(b"{\"command\":\"quit\"}\n");
    assert_eq!(station.end().code(), Some(0));
    flood.abort();
    let dumps = dumps(&factory);
    assert!(!dumps.is_empty());
    let sizes: Vec<_> = dumps
        .iter()
        .map(|dump| fs::metadata(dump).unwrap().len())
        .collect();
    assert!(sizes.iter().all(|size| *size <= DUMP_MAX), "{sizes:?}");
    assert!(sizes.iter().any(|size| *size >= FLOODED), "{sizes:?}");
}

#[test]
fn any_file_is_shown_as_far_as_it_is_a_trace() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("t");
    let whole = [
        r#"{"kind":"begin","at_us":0,"format":1,"program":"station"}"#,
        r#"{"kind":"wire","at_us":1,"bay":"1","direction":"in","bytes":"0b"}"#,
        r#"{"kind":"verdict","at_us":2,"bay":"1","event":"\u001b[2J\u202e","attempt":"A"}"#,
    ];
    let text = whole.join("\n") + "\n";
    fs::write(&file, &text).unwrap();
    let (records, lines) = shown(&file, &[], 0);
    assert_eq!(records.len(), whole.len());
    assert!(!lines.contains(['\x1b', '\u{202e}']), "{lines:?}");

    // Cut off anywhere, it is shown up to there.
    for cut in [text.len() - 2, text.len() - 40] {
        fs::write(&file, &text[..cut]).unwrap();
        assert_eq!(shown(&file, &[], 1).0.len(), 2, "{cut}");
    }
    // Rubbish between the records is passed over: bytes, JSON of another kind, and a line without an end.
    let rubbish = [
        whole[0].as_bytes(),
        b"\n\xff\xfe\0\x1b[2J\n[[[[[[\n{}\n{\"kind\":1}\n",
        &[b'{'; 200_000],
        b"\n",
        whole[1].as_bytes(),
    ];
    fs::write(&file, rubbish.concat()).unwrap();
    assert_eq!(shown(&file, &[], 1).0.len(), 2);

    for nothing in [&b""[..], b"\n\n", &[0x80; 5000]] {
        fs::write(&file, nothing).unwrap();
        shown(&file, &[], 2);
    }
    shown(&dir.path().join("not there"), &[], 2);
    shown(dir.path(), &[], 2);
}
