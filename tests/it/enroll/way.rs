//! The way to the service: which proxy calls go through, what it says, and whether what answers is the service.

use super::Line;
use crate::odd_service::{OddService, answer};
use crate::support::Ended;
use data_encoding::BASE64;
use dps_station::ledger::OutboxState;
use dps_station::provision::fault::{Blame, Fault, TrustFlaw};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A proxy that knows CONNECT alone. Runs until it is dropped.
struct Proxy {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// What a proxy does with who asks.
#[derive(Clone)]
enum Manner {
    /// Lets everybody through.
    Open,
    /// Lets through who gives this user and password.
    Asks(&'static str),
    /// Lets nobody through.
    Shut,
}

impl Proxy {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(through(stream, manner.clone(), log.clone()));
            }
        });
        Self { port, seen, task }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whom it was asked to connect to since it was looked at last.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection; whoever asks may hang up when it likes.
async fn through(stream: TcpStream, manner: Manner, log: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end() {
            "" => break,
            text => head.push(text.to_owned()),
        }
    }
    let target = head
        .first()?
        .strip_prefix("CONNECT ")?
        .split(' ')
        .next()?
        .to_owned();
    log.lock().unwrap().push(target.clone());
    let status = match manner {
        Manner::Open => None,
        Manner::Asks(user) => {
            let wanted = format!("Basic {}", BASE64.encode(user.as_bytes()));
            let given = head.iter().filter_map(|line| line.split_once(": "));
            let mut given =
                given.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
            let known = given.any(|(_, value)| value == wanted);
            (!known).then_some("407 Proxy Authentication Required")
        }
        Manner::Shut => Some("502 Bad Gateway"),
    };
    if let Some(status) = status {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(text.as_bytes()).await.ok()?;
        return None;
    }
    let mut server = TcpStream::connect(&target).await.ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    copy_bidirectional(&mut stream, &mut server).await.ok()?;
    Some(())
}

impl Line {
    /// What `reconcile` ends with: it reads only, so that it may be done again and again.
    async fn reconciled(&self, environment: &[(&str, &str)]) -> Ended {
        let mut command = self.station(&["reconcile"]);
        command.envs(environment.iter().copied());
        self.ended(command).await
    }
}

/// One sentence that names the proxy and not its user.
fn names_the_proxy(ended: &Ended, proxy: &str, parts: &[&str]) {
    assert_eq!(ended.code(), Some(3), "{ended:?}");
    for part in [&[proxy][..], parts].concat() {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    for secret in ["aladdin", "opensesame", "YWxhZGRpbjpvcGVuc2VzYW1l"] {
        assert!(!shown.contains(secret), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_through_the_proxy_that_the_system_or_the_file_names() {
    let line = Line::new().await;
    let (systems, own) = (
        Proxy::start(Manner::Open).await,
        Proxy::start(Manner::Open).await,
    );
    let target = format!("localhost:{}", line.cloud.port());
    let system = systems.url();
    let own_line = format!("proxy = \"{}\"", own.url());
    for (more, environment, by_system, by_own) in [
        ("", vec![], false, false),
        ("", vec![("HTTPS_PROXY", system.as_str())], true, false),
        ("", vec![("https_proxy", system.as_str())], true, false),
        ("", vec![("ALL_PROXY", system.as_str())], true, false),
        (
            "",
            vec![("HTTPS_PROXY", &system), ("NO_PROXY", "localhost")],
            false,
            false,
        ),
        (
            "proxy = \"none\"",
            vec![("HTTPS_PROXY", &system)],
            false,
            false,
        ),
        (
            &own_line,
            vec![("HTTPS_PROXY", &system), ("NO_PROXY", "localhost")],
            false,
            true,
        ),
    ] {
        line.configure(more);
        let ended = line.reconciled(&environment).await;
        assert_eq!(ended.code(), Some(0), "{more} {environment:?}: {ended:?}");
        for (proxy, used) in [(&systems, by_system), (&own, by_own)] {
            let seen = proxy.seen();
            assert_eq!(!seen.is_empty(), used, "{more} {environment:?}: {seen:?}");
            assert!(seen.iter().all(|seen| *seen == target), "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_says_which_proxy_is_used() {
    let line = Line::new().await;
    let proxy = Proxy::start(Manner::Asks("aladdin:opensesame")).await;
    let url = format!("http://aladdin:opensesame@127.0.0.1:{}", proxy.port);
    line.configure("");
    for (environment, used) in [(None, Value::Null), (Some(url), proxy.url().into())] {
        let mut command = line.station(&["check", "--json"]);
        command.envs(environment.map(|url| ("HTTPS_PROXY", url)));
        let ended = line.ended(command).await;
        let mut objects = ended.objects().into_iter();
        let object = objects
            .find(|object| object["check"] == "dps main")
            .unwrap();
        assert_eq!(
            (&object["ok"], &object["proxy"]),
            (&true.into(), &used),
            "{object}"
        );
        assert!(!ended.stdout.contains("opensesame"), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_to_know_who_asks_gets_it_from_a_file_and_is_named_where_it_does_not() {
    let line = Line::new().await;
    line.pass_many(1).await;
    let proxy = Proxy::start(Manner::Asks("aladdin:opensesame")).await;
    let own = format!("proxy = \"{}\"\n", proxy.url());
    let enroll = async || line.ended(line.station(&["enroll"])).await;

    line.configure(&own);
    names_the_proxy(
        &enroll().await,
        &proxy.url(),
        &["wants a user", "proxy_credential"],
    );
    let file = line.dir.path().join("proxy-user");
    line.configure(&format!("{own}proxy_credential = \"file:proxy-user\""));
    std::fs::write(&file, "aladdin:opensesam\n").unwrap();
    names_the_proxy(
        &enroll().await,
        &proxy.url(),
        &["refuses the user", "proxy_credential"],
    );
    std::fs::write(&file, "aladdin:opensesame\n").unwrap();
    let ended = enroll().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.contains("1 enrolled"), "{ended:?}");

    // As a fault: the station's, with its code.
    let fault = Fault::ProxyRefused(dps_station::provision::fault::ProxyRefused {
        dps: "main".to_owned(),
        proxy: proxy.url(),
        known: true,
    });
    assert_eq!(
        (fault.code(), fault.blame()),
        ("proxy_refused", Blame::Station)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_down_or_shut_is_named_in_place_of_the_service() {
    let line = Line::new().await;
    let shut = Proxy::start(Manner::Shut).await;
    line.configure(&format!("proxy = \"{}\"", shut.url()));
    let ended = line.reconciled(&[]).await;
    names_the_proxy(&ended, &shut.url(), &["makes no connection", "HTTPS_PROXY"]);
    let url = shut.url();
    drop(shut);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = format!(
        "http://aladdin:opensesame@{}",
        listener.local_addr().unwrap()
    );
    drop(listener);
    line.configure("");
    let ended = line.reconciled(&[("HTTPS_PROXY", &dead)]).await;
    let dead = dead.replace("aladdin:opensesame@", "");
    names_the_proxy(&ended, &dead, &["refused", "check the proxy"]);
    assert!(!ended.stderr.contains(&url), "{ended:?}");

    let fault = Fault::ProxyUnreachable(dps_station::provision::fault::ProxyUnreachable {
        dps: "main".to_owned(),
        proxy: dead,
        said: String::new(),
    });
    assert_eq!(
        (fault.code(), fault.blame()),
        ("proxy_unreachable", Blame::Cloud)
    );
}

#[test]
fn a_proxy_that_cannot_be_meant_is_refused_with_its_line() {
    for (value, said) in [
        ("\"proxy:3128\"", "http://HOST:PORT"),
        ("\"socks5://proxy:1080\"", "http://HOST:PORT"),
        ("\"http://proxy:0\"", "http://HOST:PORT"),
        ("\"http://user:opensesame@proxy:3128\"", "proxy_credential"),
        (
            "\"none\"\nproxy_credential = \"env:X\"",
            "no proxy that it is for",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[station]\nid = \"S1\"\nledger = \"l\"\n[[dps]]\nname = \"main\"\nid_scope = \"0ne0\"\n\
             global_endpoint = \"h\"\nproxy = {value}\n"
        );
        let path = folder.path().join("station.toml");
        std::fs::write(&path, text).unwrap();
        let error = dps_station::config::Config::read(&path)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(said) && error.contains("line "),
            "{value}: {error}"
        );
        assert!(!error.contains("opensesame"), "{error}");
    }
}

#[tokio::test]
async fn what_does_not_prove_to_be_the_service_ends_a_run_at_once() {
    let line = Line::new().await;
    let enrollments = line.pass_many(2).await;
    let odd = OddService::start(answer("200 OK", "", "{}")).await;
    let by_number = odd.url().replace("localhost", "127.0.0.1");
    for (url, ca_file, flaw) in [
        (by_number, odd.ca_file(), TrustFlaw::AnotherName),
        (
            odd.url(),
            line.cloud.ca_file().to_owned(),
            TrustFlaw::UnknownIssuer,
        ),
    ] {
        let impostor = line.other_dps(url, ca_file);
        let fault = super::ended(&line, &impostor, 2).await;
        assert_eq!(
            (fault.code(), fault.blame()),
            ("dps_untrusted", Blame::Station)
        );
        let Fault::DpsUntrusted(untrusted) = fault else {
            unreachable!("by its code")
        };
        assert_eq!(untrusted.flaw, flaw);
    }
    line.all_stand(&enrollments, OutboxState::Pending).await;
}
