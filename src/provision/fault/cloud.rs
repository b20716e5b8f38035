//! What can go wrong between the station and DPS.
//!
//! Invariant: the service's words are kept verbatim, harmless and bounded; its credential never is.

use serde::{Deserialize, Serialize};

/// The service's error object (`ProvisioningServiceErrorDetails` of the service's specification), bounded and harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// HTTP status; absent for one record of a bulk call, whose code says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// `errorCode`: the status times 1000 plus a detail; absent if the body is not an error object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// `message`, or `errorStatus` of one record, verbatim up to 200 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `trackingId`, for Microsoft's support.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tracking_id: String,
}

/// How far the station's clock is from the service's, in seconds: more than 0 where it is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockSkew(pub i64);

/// A person has paused the upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPaused {
    /// Name of the DPS instance.
    pub dps: String,
    /// Who, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// Who drains an outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnHolder {
    /// The process; 0 where it has not said so yet.
    pub pid: u32,
    /// The command that it runs, such as `station enroll`.
    pub command: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

/// What came in place of a usable answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoAnswer {
    /// An error of the service's own making (5xx).
    Complaint(Box<Complaint>),
    /// Nothing within so many seconds.
    Timeout(u64),
    /// What the network said.
    Network(String),
}

/// How an answer is not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// A status that the protocol does not have, or a 404 that is not in the service's own words.
    Complaint(Box<Complaint>),
    /// An answer without end.
    Endless,
    /// A query without end.
    EndlessQuery,
    /// No JSON; the parser's words.
    NotJson(String),
    /// A record that came without an entity tag.
    NoEtag,
    /// An entity tag that fits no header.
    OddEtag,
    /// A bulk answer without `isSuccessful`, or whose errors are no list.
    BulkAnswer,
    /// A query's answer that is no list.
    NotAList,
    /// An enrollment that is no object, or without a `registrationId`.
    Enrollment,
    /// An enrollment with an unknown `provisioningStatus`.
    ProvisioningStatus,
}

/// Nothing comes through the proxy on the way to a DPS instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyUnreachable {
    /// Name of the DPS instance.
    pub dps: String,
    /// The proxy's URL, without user and password.
    pub proxy: String,
    /// What the network said, or the proxy.
    pub said: String,
}

/// The proxy on the way to a DPS instance does not take who the station is to it (407).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRefused {
    /// Name of the DPS instance.
    pub dps: String,
    /// The proxy's URL, without user and password.
    pub proxy: String,
    /// Whether it was given a user and a password.
    pub known: bool,
}

/// What answers in the place of a DPS instance does not prove to be it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DpsUntrusted {
    /// Name of the DPS instance.
    pub dps: String,
    /// Where its service API is.
    pub url: String,
    /// What its certificate lacks.
    pub flaw: TrustFlaw,
}

/// The `token_command` of a DPS instance gave no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoToken {
    /// Name of the DPS instance.
    pub dps: String,
    /// The program, without its arguments.
    pub program: String,
    /// Why not.
    pub why: TokenTrouble,
}

/// What a `token_command` did in place of giving a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenTrouble {
    /// It could not be started, or not be heard to its end; what the system said.
    NotRun(String),
    /// It failed.
    Failed {
        /// How it ended, as the system says it.
        status: String,
        /// The end of what it said on stderr.
        said: String,
    },
    /// It did not end within so many seconds.
    Timeout(u64),
    /// It said more than so many bytes.
    Endless(usize),
    /// What it printed is not what `az account get-access-token` prints.
    NotAToken,
    /// Its token is not good any more.
    Expired,
}

/// Why a server's certificate is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustFlaw {
    /// It is for another host.
    AnotherName,
    /// Nobody issued it who is trusted.
    UnknownIssuer,
    /// It is not valid now, by the station's clock.
    NotValidNow,
    /// Anything else; the TLS library's words.
    Other(String),
}

/// An option of a DPS instance that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpsSetting {
    /// `service_url` is no URL; the parser's words.
    NotAUrl(String),
    /// `service_url` is no https URL without user, query or fragment.
    NotHttps,
    /// `credential` has a part that is none of a connection string.
    UnknownPart,
    /// `credential` lacks this part, or it is empty.
    NoPart(String),
    /// `credential` has a key that is not base64.
    KeyNotBase64,
    /// `ca_file` cannot be read; what the system said.
    CaFile {
        /// The file.
        path: String,
        /// What the system said.
        said: String,
    },
    /// `ca_file` is larger than so many bytes.
    CaFileTooLarge {
        /// The file.
        path: String,
        /// The most bytes that are read.
        max: u64,
    },
    /// `ca_file` holds no PEM certificate.
    CaFileEmpty {
        /// The file.
        path: String,
    },
    /// A proxy that is no `http://HOST:PORT` or `https://HOST:PORT`; without user and password.
    NotAProxy(String),
    /// `proxy_credential` is no `USER:PASSWORD`.
    ProxyCredential,
    /// The TLS library takes none of it; its words.
    Client(String),
}

/// Why a record of the outbox is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordTrouble {
    /// The service said so.
    Complaint(Box<Complaint>),
    /// The service holds another record under the registration ID.
    Foreign(Vec<Difference>),
    /// It was sent, and the service does not hold it.
    NotHeld,
    /// It was to be disabled, and is not.
    NotDisabled,
    /// It was to be deleted, and is not.
    NotDeleted,
    /// No usable answer came.
    NoAnswer(NoAnswer),
    /// The answer is not what the protocol says.
    Malformed(Malformed),
    /// What came of it does not fit what is on record; the ledger's words.
    Unrecorded(String),
}

impl From<Complaint> for RecordTrouble {
    fn from(words: Complaint) -> Self {
        Self::Complaint(Box::new(words))
    }
}

/// One field in which the service's record is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The field, spelt as DPS spells it.
    pub field: String,
    /// Our value, or its digest; harmless text. Absent for what the service gives by itself.
    pub ours: Option<String>,
    /// The service's value, or its digest; harmless text.
    pub theirs: String,
}
