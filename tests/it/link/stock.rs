//! Devices with stock firmware, which the station can only inject: the dialogue, and what such firmware is like.

use super::bench::{Bench, identify_lines, quick, session, spec, wanted};
use dps_station::fixtures::device::stock::{Stock, System};
use dps_station::fixtures::device::{Cable, Device};
use dps_station::link::session::Session;
use dps_station::link::smp::frame::{self, Decoder};
use dps_station::link::smp::{self, Header, Map, Op, Packet, SmpError, Version};
use dps_station::link::{Injection, LinkError, LinkOptions, ValueType};
use dps_station::provision::device::Holding;
use dps_station::provision::dialogue::Grounds;
use dps_station::provision::fault::HeldValue;
use dps_station::provision::injected::{Agreement, Readback};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ID_KEY: &str = "factory/serial";

/// What a product says of such firmware; no name is the usual one.
pub fn keys(value: ValueType) -> Injection {
    Injection {
        id_scope: "net/scope".to_owned(),
        endpoint: "net/host".to_owned(),
        registration_id: "net/registration".to_owned(),
        value,
        value_limit: 32,
        id_key: Some(ID_KEY.to_owned()),
        endpoint_readback: Readback::Prefix,
        ..Injection::default()
    }
}

pub fn stock(system: System) -> impl FnOnce(Device) -> Device {
    move |device| {
        let keys = ["net/scope", "net/host", "net/registration"];
        let firmware = Stock {
            system,
            keys: keys.map(str::to_owned).to_vec(),
            id_key: ID_KEY.to_owned(),
            habit: None,
        };
        device.with_stock_firmware(firmware).unwrap()
    }
}

fn differing(value: HeldValue) -> Agreement {
    Agreement::Differs(vec![value])
}

async fn injected(system: System, value: ValueType, cable: impl Fn(&Path) -> Cable) {
    let bench = Bench::with(stock(system));
    let _plug = bench.plug_in(cable(&bench.port())).await;
    let keys = keys(value);
    let holding = wanted(None);
    assert_eq!(keys.fits(&holding), Ok(()));

    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    let stranger = link.identify().await.unwrap_err();
    assert_eq!(stranger.grounds(), Some(Grounds::UnknownCommand));
    assert_eq!(link.stock_id(ID_KEY).await.unwrap(), spec().device_id);

    link.inject(&holding, &keys).await.unwrap();
    assert_eq!(
        link.restart_stock(ID_KEY, &keys).await.unwrap(),
        spec().device_id
    );
    let observed = link.observe(&keys).await.unwrap();
    let cut_off = match system {
        System::Zephyr => Agreement::EndpointPrefix(32),
        System::Mynewt => Agreement::Whole,
    };
    assert_eq!(observed.agreement(&holding, Readback::Prefix, 32), cut_off);
    if system == System::Zephyr {
        let differs = differing(HeldValue::GlobalEndpoint);
        assert_eq!(observed.agreement(&holding, Readback::Whole, 32), differs);
        assert_eq!(
            observed.holding.global_endpoint,
            "global.azure-devices-provisionin"
        );
    }
    let other = Holding {
        registration_id: "gw-0002".to_owned(),
        ..holding.clone()
    };
    let differs = differing(HeldValue::RegistrationId);
    assert_eq!(observed.agreement(&other, Readback::Prefix, 32), differs);

    let device = bench.device.lock().unwrap();
    let saved = |key: &str| device.saved_setting(key).unwrap().to_vec();
    assert_eq!(saved("net/scope"), holding.id_scope.as_bytes());
    assert_eq!(saved("net/host"), holding.global_endpoint.as_bytes());
    assert_eq!(saved("net/registration"), b"gw-0001");
    assert_eq!(device.boots(), 2);
}

#[tokio::test]
async fn stock_firmware_is_injected_over_a_port_that_stays() {
    // Spawned, because a bay is a task of its own.
    let dialogue = injected(System::Zephyr, ValueType::Bytes, Cable::uart);
    tokio::spawn(dialogue).await.unwrap();
}

#[tokio::test]
async fn stock_firmware_is_injected_over_a_port_that_leaves_at_reset() {
    injected(System::Zephyr, ValueType::Bytes, |port| Cable {
        port_leaves_at_reset: true,
        ..Cable::uart(port)
    })
    .await;
}

#[tokio::test]
async fn mynewt_is_injected_with_texts_in_version_1() {
    injected(System::Mynewt, ValueType::Text, Cable::uart).await;
}

#[tokio::test]
async fn a_prefix_of_the_endpoint_is_believed_only_where_the_device_cuts_values_off() {
    let bench = Bench::with(stock(System::Zephyr));
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let keys = keys(ValueType::Bytes);
    let short = Holding {
        global_endpoint: "global.azure".to_owned(),
        ..wanted(None)
    };
    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    link.inject(&short, &keys).await.unwrap();
    let observed = link.observe(&keys).await.unwrap();
    assert_eq!(
        observed.agreement(&short, Readback::Prefix, 32),
        Agreement::Whole
    );
    let differs = differing(HeldValue::GlobalEndpoint);
    assert_eq!(
        observed.agreement(&wanted(None), Readback::Prefix, 32),
        differs
    );
}

#[tokio::test]
async fn another_device_after_the_reset_is_told_apart() {
    let bench = Bench::with(stock(System::Zephyr));
    let plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let keys = keys(ValueType::Bytes);
    let mut link = Session::open(&bench.port(), &quick()).await.unwrap();
    link.inject(&wanted(None), &keys).await.unwrap();

    let mut other = spec();
    other.device_id = dps_station::provision::device::DeviceId::parse("GW-0002").unwrap();
    let flash = bench.dir.path().join("other.json");
    let other = stock(System::Zephyr)(Device::load_or_make(&flash, other).unwrap());
    let other = std::sync::Arc::new(std::sync::Mutex::new(other));
    let cable = Cable::uart(&bench.port());
    let watch = async {
        while bench.device.lock().unwrap().boots() == 1 {
            tokio::task::yield_now().await;
        }
        drop(plug);
        dps_station::fixtures::device::run_device(other, cable).await
    };
    let swapped = tokio::select! {
        result = link.restart_stock(ID_KEY, &keys) => result.unwrap_err(),
        result = watch => panic!("{result:?}"),
    };
    assert!(
        matches!(&swapped, LinkError::Swapped { found, .. } if found.as_str() == "GW-0002"),
        "{swapped:?}"
    );
}

/// Asks in one version, and gives the reply as bytes.
fn raw(device: &mut Device, first: u8, group: u16, command: u8, body: &Map) -> Option<Vec<u8>> {
    let request = Packet {
        header: Header {
            version: Version::Two,
            op: Op::Read,
            group,
            sequence: 9,
            command,
        },
        body: body.clone(),
    };
    let mut bytes = request.encode();
    bytes[0] = first;
    let lines = frame::encode(&bytes, frame::LINE_LENGTH).unwrap();
    let reply = device.handle(&lines.concat());
    let mut decoder = Decoder::default();
    reply.iter().find_map(|&byte| decoder.push(byte))
}

const READ_1: u8 = 0;
const WRITE_1: u8 = 2;
const READ_2: u8 = 8;
const WRITE_2: u8 = 10;

fn ask(device: &mut Device, first: u8, command: u8, body: &Map) -> Map {
    let reply = raw(device, first, smp::SETTINGS_GROUP, command, body).unwrap();
    assert_eq!(
        (reply[smp::HEADER_LENGTH], reply[reply.len() - 1]),
        (0xbf, 0xff),
        "a map of indefinite length"
    );
    assert_eq!(reply[0], first + 1);
    Packet::decode(&reply).unwrap().body
}

fn refusal(group: Option<u16>, code: u32) -> Option<SmpError> {
    Some(SmpError { group, code })
}

#[test]
fn stock_firmware_refuses_as_zephyr_does() {
    let bench = Bench::with(stock(System::Zephyr));
    let mut device = bench.device.lock().unwrap();
    let device = &mut device;
    let name = |key: &str| Map::new().text("name", key);
    let long = "a-key-with-thirty-two-characters";
    let cases = [
        (READ_2, name("net/other"), Some(3), 3),
        (READ_1, name("net/other"), None, 5),
        (READ_2, name(long), Some(3), 2),
        (READ_1, name(long), None, 3),
        (READ_2, name(&long[1..]), Some(3), 3),
        (READ_2, Map::new(), None, 3),
        (WRITE_2, name("net/host").text("val", "x"), None, 3),
        (WRITE_2, name(ID_KEY).bytes("val", b"x"), Some(3), 3),
    ];
    for (first, body, group, code) in cases {
        let said = ask(device, first, smp::SETTING, &body).as_error();
        assert_eq!(said, refusal(group, code), "{body:?}");
    }
    // An unknown group, and a version that does not exist yet.
    let unknown = raw(device, READ_2, 64, 0, &Map::new()).unwrap();
    let unknown = Packet::decode(&unknown).unwrap().body.as_error();
    assert_eq!(unknown, refusal(None, 8));
    let newer = raw(device, 0x10, smp::OS_GROUP, smp::ECHO, &Map::new()).unwrap();
    assert_eq!(newer[0], 9);
    assert_eq!(
        Packet::decode(&newer).unwrap().body.as_error(),
        refusal(None, 13)
    );
}

#[test]
fn stock_firmware_keeps_in_ram_what_is_not_saved_and_always_says_yes() {
    let bench = Bench::with(stock(System::Zephyr));
    let mut device = bench.device.lock().unwrap();
    let device = &mut device;
    let name = || Map::new().text("name", "net/host");
    let value = |device: &mut Device| {
        let reply = ask(device, READ_2, smp::SETTING, &name());
        reply.get_bytes("val").unwrap().to_vec()
    };
    let long = name().bytes("val", &[b'h'; 37]);
    let done = ask(device, WRITE_2, smp::SETTING, &long);
    assert_eq!(done, Map::new());
    assert_eq!(
        value(device),
        [b'h'; 32],
        "no more than is given of any value"
    );
    let more = |device: &mut Device, most: u64| {
        let reply = ask(device, READ_2, smp::SETTING, &name().uint("max_size", most));
        let length = reply.get_bytes("val").unwrap().len();
        (length, reply.get_size("max_size").ok())
    };
    assert_eq!(more(device, 5), (5, None));
    assert_eq!(more(device, 32), (32, None));
    assert_eq!(more(device, 33), (32, Some(32)));

    device.restart().unwrap();
    assert_eq!(value(device), b"", "it was not saved");
    ask(device, WRITE_2, smp::SETTING, &long);
    for (first, command) in [
        (WRITE_2, smp::SETTINGS_SAVE),
        (WRITE_1, smp::SETTINGS_COMMIT),
        (READ_2, smp::SETTINGS_SAVE),
    ] {
        assert_eq!(ask(device, first, command, &Map::new()), Map::new());
    }
    device.restart().unwrap();
    assert_eq!(value(device).len(), 32);
    ask(device, WRITE_2, smp::SETTING_DELETE, &name());
    assert_eq!(value(device).len(), 32, "it is in RAM until the next start");
    device.restart().unwrap();
    assert_eq!(value(device), b"");
    ask(device, WRITE_2, smp::SETTING, &name());
    assert_eq!(value(device), b"", "a value left out is an empty one");
}

/// An echo request as a packet of that length.
fn echo_of(length: usize) -> Vec<Vec<u8>> {
    let request = |text: &str| Packet {
        header: Header {
            version: Version::Two,
            op: Op::Write,
            group: smp::OS_GROUP,
            sequence: 1,
            command: smp::ECHO,
        },
        body: Map::new().text("d", text),
    };
    let overhead = request(&"e".repeat(100)).encode().len() - 100;
    let packet = request(&"e".repeat(length - overhead)).encode();
    assert_eq!(packet.len(), length);
    frame::encode(&packet, frame::LINE_LENGTH).unwrap()
}

#[test]
fn a_burst_of_three_lines_is_lost_and_two_lines_are_not() {
    let bench = Bench::with(stock(System::Zephyr));
    let mut device = bench.device.lock().unwrap();
    assert!(!device.handle(&echo_of(182).concat()).is_empty());
    assert!(device.handle(&echo_of(183).concat()).is_empty());
    // The rest of it does not disturb what comes next, and with pauses three lines are as good as two.
    assert!(!device.handle(&echo_of(182).concat()).is_empty());
    let said: Vec<_> = echo_of(183)
        .iter()
        .map(|line| device.handle(line).len())
        .collect();
    assert_eq!(said[..2], [0, 0]);
    assert!(said[2] > 0);
    let mut damaged = echo_of(100).concat();
    damaged[50] ^= 1;
    assert!(device.handle(&damaged).is_empty(), "silence on damage");
    assert!(device.handle(&[b'x'; 4096]).is_empty());
    assert!(device.handle(b"\n").is_empty());
    assert!(!device.handle(&identify_lines()).is_empty());
}

/// A session with the device over a wire without a pace: what is sent without a pause arrives as one burst.
async fn echoed(options: &LinkOptions) -> (u64, bool) {
    let bench = Bench::with(stock(System::Zephyr));
    let device = bench.device.clone();
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = far.read(&mut buffer).await {
            let reply = device.lock().unwrap().handle(&buffer[..count]);
            far.write_all(&reply).await.unwrap();
        }
    });
    let path = bench.port();
    let mut link = Session::over(near, &path, options).unwrap();
    let holding = Holding {
        global_endpoint: "e".repeat(128),
        ..wanted(None)
    };
    let done = link.inject(&holding, &keys(ValueType::Bytes)).await;
    (link.health().retries, done.is_ok())
}

#[tokio::test]
async fn a_pause_between_the_lines_carries_a_packet_of_three() {
    let short_lines = LinkOptions {
        line_length: 63,
        ..quick()
    };
    assert!(
        !echoed(&short_lines).await.1,
        "a packet in five lines is lost"
    );
    let paced = LinkOptions {
        line_pause_ms: 20,
        ..short_lines
    };
    assert_eq!(echoed(&paced).await, (0, true));
}

#[tokio::test]
async fn values_of_the_wrong_type_are_refused() {
    let bench = Bench::with(stock(System::Mynewt));
    let device = bench.device.clone();
    let server = move |request: &[u8]| Some(device.lock().unwrap().handle(request));
    let mut link = session(&bench, server, &quick());
    let keys = keys(ValueType::Bytes);
    let error = link.inject(&wanted(None), &keys).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_understands_stock_firmware() {
    let bench = Bench::with(stock(System::Zephyr));
    let _plug = bench.plug_in(Cable::uart(&bench.port())).await;
    let path = bench.port().display().to_string();
    tokio::task::spawn_blocking(move || {
        let port = serialport::new(path, 115_200)
            .timeout(Duration::from_secs(5))
            .open()
            .unwrap();
        let client = mcumgr_toolkit::MCUmgrClient::new_from_serial(port);
        let text = "x".repeat(100);
        assert_eq!(client.os_echo(&text).unwrap(), text);
        assert_eq!(client.os_mcumgr_parameters().unwrap().buf_size, 384);
        assert_eq!(client.settings_read(ID_KEY).unwrap(), b"GW-0001");
        assert!(client.settings_read("other").is_err());
        client.settings_write("net/scope", b"0ne00112233").unwrap();
        client.settings_save(None::<&str>).unwrap();
        client.settings_write("net/scope", b"unsaved").unwrap();
        client.settings_load().unwrap();
        assert_eq!(client.settings_read("net/scope").unwrap(), b"0ne00112233");
        client.settings_delete("net/scope").unwrap();
        client.settings_commit().unwrap();
        client.os_system_reset(false, None).unwrap();
    })
    .await
    .unwrap();
}
