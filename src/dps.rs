//! The DPS service API as a client: token, bulk, read back, query.
//!
//! Source of the protocol: Azure REST API specifications, `deviceprovisioningservices/data-plane`, service,
//! `2021-10-01`. No call is repeated here: who calls knows what a repetition would mean.

mod bearer;
mod error;
mod network;
mod proxy;
mod token;
mod wire;

use error::read_complaint;
pub use error::{Complaint, DpsError, NoConnection};
use network::cause;
pub use proxy::ProxyChoice;
use proxy::Route;

use crate::provision::batch::{BATCH_LIMIT, BulkAnswer, Held, Status};
use crate::provision::device::RegistrationId;
use crate::provision::event::Enrollment;
use crate::provision::fault::{ClockSkew, DpsSetting, Fault, Malformed, NoAnswer, said};
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, HeaderValue, IF_MATCH, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Request, RequestBuilder, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tracing::info;

/// The service API version in general use; what [`DpsOptions::api_version`] should be unless there is a reason.
pub const API_VERSION: &str = "2021-10-01";

/// Longest wait for a connection, TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for a whole answer, from the beginning of the call.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes: a page of [`PAGE_ITEMS`] records with the largest twins stays below it.
const ANSWER_LIMIT: usize = 16 << 20;
/// Largest CA file that is read, in bytes.
const CA_FILE_LIMIT: u64 = 1 << 20;
/// Records asked for in one page of a query.
const PAGE_ITEMS: u32 = 100;
/// Clock difference to the service that is worth a warning, in milliseconds.
const SKEW_LIMIT_MS: i64 = 120_000;

const CONTINUATION: &str = "x-ms-continuation";
const MAX_ITEM_COUNT: &str = "x-ms-max-item-count";

/// How to reach one DPS instance.
pub struct DpsOptions {
    /// Its name in `station.toml`.
    pub name: String,
    /// Where its service API is: an `https` URL without user, query or fragment.
    pub service_url: String,
    /// What opens it.
    pub credential: Credential,
    /// CA certificates (PEM) that alone are trusted; absent for the system's.
    pub ca_file: Option<PathBuf>,
    /// `api-version` of each call; see [`API_VERSION`].
    pub api_version: String,
    /// Whether calls go through a proxy.
    pub proxy: ProxyChoice,
}

/// What opens the service API.
pub enum Credential {
    /// Connection string of a shared access policy that may read and write enrollments.
    ConnectionString(SecretString),
    /// A program and its arguments, which prints what `az account get-access-token` prints.
    Command(Vec<String>),
}

/// What makes the `Authorization` of a call.
enum Key {
    Sas(Box<token::TokenMaker>),
    Bearer(bearer::TokenCommand),
}

/// A client of one DPS instance.
pub struct Dps {
    name: String,
    url: Url,
    api_version: String,
    client: Client,
    route: Option<Route>,
    key: Key,
    clock: fn() -> i64,
    skew_ms: AtomicI64,
}

/// One page of a query.
pub struct Page {
    /// The records; may be empty although more follow.
    pub records: Vec<Held>,
    /// Where the next page begins; absent on the last.
    pub next: Option<Continuation>,
}

/// Where the next page of a query begins: opaque, and returned byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Continuation(HeaderValue);

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Dps {
    /// Makes a client; does not connect. `clock` gives the time in milliseconds since 1970 (UTC).
    ///
    /// # Errors
    /// [`DpsError::Configuration`], naming the option that cannot work.
    pub fn new(options: DpsOptions, clock: fn() -> i64) -> Result<Self, DpsError> {
        let wrong = DpsError::Configuration;
        let url = parse_url(&options.service_url).map_err(wrong)?;
        let key = match options.credential {
            Credential::ConnectionString(text) => {
                Key::Sas(Box::new(token::TokenMaker::parse(&text).map_err(wrong)?))
            }
            Credential::Command(command) => Key::Bearer(bearer::TokenCommand::new(command)),
        };
        let mut client = Client::builder()
            .https_only(true)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(CALL_DEADLINE);
        let unfit = |error| wrong(DpsSetting::Client(cause(&error)));
        let route = Route::to(&url, &options.proxy).map_err(wrong)?;
        if let Some(route) = &route {
            client = client.proxy(route.proxy().map_err(unfit)?);
        }
        if let Some(path) = &options.ca_file {
            client = client.tls_certs_only(read_ca_file(path).map_err(wrong)?);
        }
        Ok(Self {
            client: client.build().map_err(unfit)?,
            route,
            name: options.name,
            url,
            api_version: options.api_version,
            key,
            clock,
            skew_ms: AtomicI64::new(0),
        })
    }

    /// Its name in `station.toml`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its service API is.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The proxy that its calls go through, without user and password; none where they go straight.
    pub fn proxy(&self) -> Option<&str> {
        self.route.as_ref().map(|route| route.shown.as_str())
    }

    /// The time by the clock that tokens are made with, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// How far the station's clock is from the service's last `Date`, if that is more than two minutes: tokens are
    /// refused then, or good for longer than meant.
    pub fn clock_skew(&self) -> Option<ClockSkew> {
        let skew_ms = self.skew_ms.load(Ordering::Relaxed);
        (skew_ms.abs() > SKEW_LIMIT_MS).then_some(ClockSkew(skew_ms / 1000))
    }

    /// Creates enrollments in one bulk call; what exists already is left as it is.
    ///
    /// # Errors
    /// Any [`DpsError`]; after [`DpsError::Unknown`] and [`DpsError::Malformed`] each record must be read back.
    ///
    /// # Panics
    /// With more than [`BATCH_LIMIT`] enrollments.
    pub async fn create(
        &self,
        enrollments: &[(&Enrollment, Status)],
    ) -> Result<BulkAnswer, DpsError> {
        assert!(enrollments.len() <= BATCH_LIMIT, "one bulk call takes ten");
        let body = wire::bulk_create(enrollments);
        let request = self.request(Method::POST, "/enrollments").json(&body);
        let answer = self.call(request).await?;
        wire::bulk_answer(&answer.json()?).map_err(DpsError::Malformed)
    }

    /// Gives our record, as it was read, another status, if nobody has written it since: all else that the service
    /// holds goes back as it is, whoever set it.
    ///
    /// # Errors
    /// Any [`DpsError`]; [`DpsError::Refused`] with status 412 if it has another entity tag by now.
    pub async fn set_status(
        &self,
        ours: &Enrollment,
        held: &Held,
        status: Status,
    ) -> Result<(), DpsError> {
        let etag = wire::tag(held).map_err(DpsError::Malformed)?;
        let request = self
            .request(Method::PUT, &path_of(&ours.registration_id))
            .header(IF_MATCH, etag)
            .json(&wire::with_status(ours, held, status));
        self.call(request).await.map(|_| ())
    }

    /// Deletes our record, as it was read, if nobody has written it since.
    ///
    /// # Errors
    /// Any [`DpsError`]; [`DpsError::Refused`] with status 412 if it has another entity tag by now.
    pub async fn delete(&self, id: &RegistrationId, held: &Held) -> Result<(), DpsError> {
        let request = self
            .request(Method::DELETE, &path_of(id))
            .header(IF_MATCH, wire::tag(held).map_err(DpsError::Malformed)?);
        self.call(request).await.map(|_| ())
    }

    /// Reads one enrollment; `None` if the service says that it holds none.
    ///
    /// # Errors
    /// Any [`DpsError`]. A 404 that is not in the service's own words is [`DpsError::Malformed`]: something else
    /// answered, and its silence about a record means nothing.
    pub async fn get(&self, id: &RegistrationId) -> Result<Option<Held>, DpsError> {
        match self.call(self.request(Method::GET, &path_of(id))).await {
            Ok(answer) => wire::held(answer.json()?)
                .map(Some)
                .map_err(DpsError::Malformed),
            Err(DpsError::Refused(complaint)) if complaint.status == Some(404) => {
                match complaint.code {
                    Some(_) => Ok(None),
                    None => Err(DpsError::Malformed(Malformed::Complaint(Box::new(
                        complaint,
                    )))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// One page of all individual enrollments, from the beginning or from where the last page ended.
    ///
    /// A query lags behind writes: it finds candidates, and [`Dps::get`] decides.
    ///
    /// # Errors
    /// Any [`DpsError`].
    pub async fn query(&self, from: Option<&Continuation>) -> Result<Page, DpsError> {
        let mut request = self
            .request(Method::POST, "/enrollments/query")
            .header(MAX_ITEM_COUNT, PAGE_ITEMS)
            .json(&wire::query());
        if let Some(Continuation(token)) = from {
            request = request.header(CONTINUATION, token);
        }
        let answer = self.call(request).await?;
        Ok(Page {
            records: wire::page(answer.json()?).map_err(DpsError::Malformed)?,
            next: answer.headers.get(CONTINUATION).cloned().map(Continuation),
        })
    }

    /// Whether enrollments may be written: a bulk call that creates none is refused to who may not, and can have no effect
    /// for who may. That rights are looked at before what is asked is not documented; were it otherwise, the answer
    /// would tell a stranger what the service holds.
    ///
    /// # Errors
    /// Any [`DpsError`] but those that answer the question.
    pub async fn may_write(&self) -> Result<bool, DpsError> {
        let request = self.request(Method::POST, "/enrollments");
        self.may(request.json(&wire::bulk_create(&[]))).await
    }

    /// Whether registration states may be read, asked with a name that no station gives.
    ///
    /// # Errors
    /// As [`Dps::may_write`].
    pub async fn may_read_states(&self) -> Result<bool, DpsError> {
        self.may(self.request(Method::GET, "/registrations/station-check"))
            .await
    }

    async fn may(&self, request: RequestBuilder) -> Result<bool, DpsError> {
        match self.call(request).await {
            Ok(_) | Err(DpsError::Refused(_)) => Ok(true),
            Err(DpsError::Unauthorized(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url.query_pairs_mut()
            .append_pair("api-version", &self.api_version);
        self.client
            .request(method, url)
            .header("Accept", "application/json")
    }

    /// Makes the call, tells the trace how it went, and sorts its answer: what is `Ok` is a success of the service.
    async fn call(&self, request: RequestBuilder) -> Result<Answer, DpsError> {
        let sorted = |error| network::sorted(&error, self.route.as_ref());
        let request = request.build().map_err(sorted)?;
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let began = Instant::now();
        let answer = self.send(request).await;
        let took_us = began.elapsed().as_micros();
        let status = answer.as_ref().ok().map(|answer| answer.status.as_u16());
        // By its code: what a program for tokens said before it failed may hold one.
        let fault = answer.as_ref().err().map(|error| self.fault(error));
        let error = fault.as_ref().map(Fault::code);
        info!(target: "dps", dps = self.name, %method, path, status, took_us, error);
        answer?.sorted(self.now_ms())
    }

    async fn send(&self, mut request: Request) -> Result<Answer, DpsError> {
        let (authorization, number) = self.authorization().await?;
        request.headers_mut().insert(AUTHORIZATION, authorization);
        let response = self.client.execute(request).await;
        let mut response =
            response.map_err(|error| network::sorted(&error, self.route.as_ref()))?;
        self.note_clock(response.headers());

        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_LIMIT => {
                    return Err(DpsError::Malformed(Malformed::Endless));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(DpsError::silence(NoAnswer::Network(cause(&error)))),
            }
        }
        if let Key::Bearer(command) = &self.key {
            match response.status() {
                StatusCode::UNAUTHORIZED if command.refused(number).await => {
                    let complaint = read_complaint(401, &body);
                    return Err(DpsError::TokenRefused(complaint));
                }
                StatusCode::UNAUTHORIZED => {}
                _ => command.taken().await,
            }
        }
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body,
        })
    }

    /// The value of the header, and which token it is of those that a program gave.
    async fn authorization(&self) -> Result<(HeaderValue, u64), DpsError> {
        let now_s = self.now_ms().div_euclid(1000);
        match &self.key {
            Key::Sas(signer) => {
                let token = signer.token(now_s);
                let mut value = HeaderValue::from_str(token.expose_secret())
                    .expect("a token is percent-encoded, so it is visible ASCII");
                value.set_sensitive(true);
                Ok((value, 0))
            }
            Key::Bearer(command) => match command.token(now_s).await {
                Ok(bearer) => Ok((bearer.value, bearer.number)),
                Err(no) if no.may_pass => Err(DpsError::Unreachable(NoConnection::Token(no.why))),
                Err(no) => Err(DpsError::NoToken(no.why)),
            },
        }
    }

    fn note_clock(&self, headers: &HeaderMap) {
        if let Some(date_s) = date(headers) {
            let skew_ms = self.now_ms() - date_s * 1000;
            self.skew_ms.store(skew_ms, Ordering::Relaxed);
        }
    }
}

/// A connection string, as it is read.
impl<T: Into<SecretString>> From<T> for Credential {
    fn from(connection_string: T) -> Self {
        Self::ConnectionString(connection_string.into())
    }
}

impl Answer {
    /// What is `Ok` is a success of the service. `now_ms` is the station's time.
    fn sorted(self, now_ms: i64) -> Result<Self, DpsError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let complaint = read_complaint(self.status.as_u16(), &self.body);
        Err(match self.status.as_u16() {
            401 | 403 => DpsError::Unauthorized(complaint),
            429 => DpsError::Throttled {
                retry_after: retry_after(&self.headers, now_ms),
                complaint,
            },
            // Whoever gave up waiting may have passed on what it had by then: nobody knows what became of it.
            408 | 500..=599 => DpsError::Unknown {
                retry_after: retry_after(&self.headers, now_ms),
                why: NoAnswer::Complaint(Box::new(complaint)),
            },
            400..=499 => DpsError::Refused(complaint),
            _ => DpsError::Malformed(Malformed::Complaint(Box::new(complaint))),
        })
    }

    fn json(&self) -> Result<Value, DpsError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| DpsError::Malformed(Malformed::NotJson(said(&error))))
    }
}

fn path_of(id: &RegistrationId) -> String {
    // Every character of a registration ID may stand in a path as it is (RFC 3986, section 3.3).
    format!("/enrollments/{id}")
}

fn parse_url(text: &str) -> Result<Url, DpsSetting> {
    let url = Url::parse(text).map_err(|error| DpsSetting::NotAUrl(said(&error)))?;
    let plain = url.username().is_empty() && url.password().is_none();
    if url.scheme() != "https" || !plain || url.query().is_some() || url.fragment().is_some() {
        return Err(DpsSetting::NotHttps);
    }
    Ok(url)
}

fn read_ca_file(file: &Path) -> Result<Vec<Certificate>, DpsSetting> {
    let path = || file.display().to_string();
    let unreadable = |error| DpsSetting::CaFile {
        path: path(),
        said: said(&error),
    };
    let length = std::fs::metadata(file).map_err(unreadable)?.len();
    if length > CA_FILE_LIMIT {
        return Err(DpsSetting::CaFileTooLarge {
            path: path(),
            max: CA_FILE_LIMIT,
        });
    }
    let pem = std::fs::read(file).map_err(unreadable)?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(DpsSetting::CaFileEmpty { path: path() });
    }
    Ok(certificates)
}

/// `Retry-After`: seconds, or the date until which to wait (RFC 9110, section 10.2.3; DPS documents seconds, and what
/// stands before it may say either). A date counts from the reply's own `Date`, so that a wrong clock of the station's
/// does not matter; from the station's time where the reply has none.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    let from_s = date(headers).unwrap_or_else(|| now_ms.div_euclid(1000));
    let seconds = until.unix_timestamp().saturating_sub(from_s);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// `Date` of a reply, in seconds since 1970; a damaged one is none.
fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(date.unix_timestamp())
}

/// What options that cannot work mean for a person: there is no instance yet to ask.
pub fn configuration_fault(dps: &str, error: &DpsError) -> Fault {
    let setting = match error {
        DpsError::Configuration(setting) => setting.clone(),
        other => DpsSetting::Client(format!("{other:?}")),
    };
    Fault::DpsConfiguration {
        dps: dps.to_owned(),
        setting,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::provision::fault::Blame;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn options(service_url: &str) -> DpsOptions {
        DpsOptions {
            name: "main".to_owned(),
            service_url: service_url.to_owned(),
            credential: format!(
                "HostName=localhost;SharedAccessKeyName=owner;SharedAccessKey={KEY}"
            )
            .to_owned()
            .into(),
            ca_file: None,
            api_version: API_VERSION.to_owned(),
            proxy: ProxyChoice::Never,
        }
    }

    fn dps(service_url: &str) -> Dps {
        // 1994-11-06 08:49:37 UTC, the example of RFC 9110, section 5.6.7.
        Dps::new(options(service_url), || 784_111_777_000).unwrap()
    }

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let header = |(name, value): &(&'static str, &str)| {
            (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(header).collect(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn an_answer_is_sorted_by_its_status() {
        // 1994-11-06 08:49:37 UTC.
        let now_ms = 784_111_777_000;
        let sorted = |status| answer(status, &[], "{}").sorted(now_ms).err();
        assert!(sorted(200).is_none());
        assert!(matches!(sorted(401), Some(DpsError::Unauthorized(_))));
        assert!(matches!(sorted(412), Some(DpsError::Refused(_))));
        assert!(matches!(sorted(408), Some(DpsError::Unknown { .. })));
        assert!(matches!(sorted(500), Some(DpsError::Unknown { .. })));
        assert!(matches!(sorted(302), Some(DpsError::Malformed(_))));
        let busy = |after, date: Option<&'static str>| {
            let mut headers = vec![("retry-after", after)];
            headers.extend(date.map(|date| ("date", date)));
            answer(429, &headers, "").sorted(now_ms).err()
        };
        let date = "Sun, 06 Nov 1994 08:50:37 GMT";
        for (text, from, seconds) in [
            ("7", None, Some(7)),
            ("-1", None, None),
            ("soon", None, None),
            (date, None, Some(60)),
            (date, Some("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30)),
            (date, Some("no date"), Some(60)),
            (date, Some("Sun, 06 Nov 1994 09:50:37 GMT"), Some(0)),
        ] {
            let Some(DpsError::Throttled { retry_after, .. }) = busy(text, from) else {
                panic!("429 is throttling")
            };
            assert_eq!(retry_after, seconds.map(Duration::from_secs));
        }
        let down = answer(503, &[("retry-after", "7")], "")
            .sorted(now_ms)
            .err();
        let pause = down.and_then(|error| error.retry_after());
        assert_eq!(pause, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_clock_that_is_wrong_by_more_than_two_minutes_is_said() {
        let dps = dps("https://localhost");
        let warned_at = |date| {
            dps.note_clock(&answer(200, &[("date", date)], "").headers);
            dps.clock_skew()
        };
        assert_eq!(warned_at("Sun, 06 Nov 1994 08:47:37 GMT"), None);
        let behind = warned_at("Sun, 06 Nov 1994 08:51:38 GMT");
        assert_eq!(behind, Some(ClockSkew(-121)));
        let ahead = warned_at("Sun, 06 Nov 1994 08:47:36 GMT");
        assert_eq!(ahead, Some(ClockSkew(121)));
        assert_eq!(warned_at("no date"), ahead);
    }

    #[test]
    fn options_that_cannot_work_are_named_and_the_key_is_not() {
        let why = |options| match Dps::new(options, || 0) {
            Err(error) => configuration_fault("main", &error),
            Ok(_) => panic!("these options cannot work"),
        };
        let setting = |options| match why(options) {
            Fault::DpsConfiguration { setting, .. } => setting,
            other => panic!("{other:?}"),
        };
        for url in ["http://h", "https://u:p@h", "https://h?x"] {
            assert_eq!(setting(options(url)), DpsSetting::NotHttps, "{url}");
        }
        let no_url = setting(options("no url"));
        assert!(matches!(no_url, DpsSetting::NotAUrl(_)), "{no_url:?}");
        let no_file = DpsOptions {
            ca_file: Some("/nonexistent/ca.pem".into()),
            ..options("https://localhost")
        };
        let no_file = setting(no_file);
        assert!(
            matches!(&no_file, DpsSetting::CaFile { path, .. } if path == "/nonexistent/ca.pem")
        );
        let bad_key = DpsOptions {
            credential: "HostName=h;SharedAccessKeyName=p;SharedAccessKey=s3cret"
                .to_owned()
                .into(),
            ..options("https://localhost")
        };
        assert!(!format!("{:?}", why(bad_key)).contains("s3cret"));
    }

    #[tokio::test]
    async fn no_listener_is_a_fault_of_the_cloud_that_names_the_url() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let dps = dps(&format!("https://127.0.0.1:{port}"));
        let error = dps.query(None).await.err().unwrap();
        assert!(matches!(error, DpsError::Unreachable(_)), "{error:?}");
        let fault = dps.fault(&error);
        assert_eq!(fault.blame(), Blame::Cloud);
        let named = format!("https://127.0.0.1:{port}/");
        assert!(matches!(fault, Fault::DpsUnreachable { url, .. } if url == named));
    }
}
