//! What can go wrong with a device's TPM.
//!
//! Invariant: commands are named, and nothing that went into one or came out of it is here.

use super::TemplateFault;
use crate::provision::dialogue::Verb;
use serde::{Deserialize, Serialize};

/// How the TPM's answers do not add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmGarble {
    /// The TPM's name of a key is not the digest of its public area: one of the two was changed on the way.
    Name {
        /// The key's handle.
        handle: u32,
    },
    /// The answer is no TPM response.
    Response {
        /// The command.
        command: String,
        /// What is wrong with it.
        flaw: ResponseFlaw,
    },
}

/// What is wrong with a TPM's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFlaw {
    /// It has so many bytes, which are fewer or more than a response may have.
    Length(usize),
    /// Its header announces another length than these bytes.
    Size(usize),
    /// It has this error code, and more bytes than such a response has.
    LongError(u32),
    /// Its list of handles is broken.
    Handles,
    /// An HMAC of another length than 32 bytes.
    Hmac,
    /// A piece of NV memory of another length than was asked for.
    Piece {
        /// Bytes asked for.
        asked: usize,
        /// Bytes that came.
        found: usize,
    },
}

/// How a TPM did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmTrouble {
    /// A task failed; `said` is the response code in the TSS's words.
    Task {
        /// Which task.
        task: TpmTask,
        /// What the TSS said.
        said: String,
    },
    /// A command failed with this response code.
    Command {
        /// The command.
        command: String,
        /// The response code.
        rc: u32,
    },
    /// The link failed during a command.
    Link {
        /// The command.
        command: String,
    },
    /// It did not answer in time.
    Deadline {
        /// The command that was under way.
        command: String,
        /// The limit for all commands of the step, in milliseconds.
        limit_ms: u64,
    },
}

/// A task that takes one command or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmTask {
    /// Connecting the TSS.
    Connect,
    /// Looking for intermediate certificates.
    FindChain,
    /// Signing with the HMAC key.
    Hmac,
    /// Forgetting a key.
    Flush,
    /// Naming a handle.
    NameHandle,
    /// Making the EK persistent.
    Persist,
    /// Reading a persistent key.
    ReadPersistent,
    /// Making a primary key.
    MakePrimary,
    /// Encoding a public area.
    EncodePublic,
    /// Reading NV memory.
    ReadNv,
    /// Starting, setting up or ending a policy session.
    PolicySession,
    /// Proving the right to use the EK.
    PolicySecret,
    /// Opening a credential.
    ActivateCredential,
    /// Importing the HMAC key.
    Import,
}

/// How the station's own part of talking to a TPM failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BridgeTrouble {
    /// The TSS asked for a command that a provisioning station does not need.
    NotAllowed(u32),
    /// A run with more commands than any job needs.
    TooMany(usize),
    /// A text to sign that is longer than one command takes.
    TooLong {
        /// Bytes in the text.
        found: usize,
        /// The most that fit.
        max: usize,
    },
    /// No loopback port, or the thread died; what the system said.
    Bridge(String),
}

/// On which way it was seen that nothing comes back from a TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stall {
    /// The device did not answer.
    Silent {
        /// The port's path.
        port: String,
        /// What it was asked.
        asked: Verb,
    },
    /// The time for all commands of the step was over.
    Deadline {
        /// The command that was under way.
        command: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
}

/// Why no challenge can be made for a TPM from what is on record of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoChallenge {
    /// A recorded key is not what it should be.
    Key(TemplateFault),
    /// The key cannot be encrypted to.
    Encryption,
    /// The challenge ends inside one of its six items, counted from 1.
    Truncated(usize),
    /// The challenge goes on after its last item.
    Trailing,
}
