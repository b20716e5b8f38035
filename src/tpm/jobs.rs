//! What a run does with a TPM: read its endorsement key and certificate, and prove that it can use them.
//!
//! All authorizations are empty passwords, as on a TPM that nobody has taken ownership of. Password sessions cost
//! no command of their own; an HMAC session would cost three, and hide nothing from whoever sits on the line.

use super::TpmError;
use crate::provision::bytes::Digest;
use crate::provision::endorsement::EmptyHandle;
use crate::provision::endorsement::certificate::sequence_length;
use crate::provision::endorsement::credential::{ChallengeItems, Credential};
use crate::provision::endorsement::template::{
    EK_TEMPLATE, EndorsementKey, MODULUS_OCTETS, SRK_TEMPLATE, StorageKey, TemplateFault,
};
use crate::provision::fault::{ResponseFlaw, TpmTask};
use tss_esapi::constants::{
    CapabilityType, PropertyTag, SessionType, Tss2ResponseCode, Tss2ResponseCodeKind,
};
use tss_esapi::handles::{
    AuthHandle, KeyHandle, NvIndexHandle, NvIndexTpmHandle, ObjectHandle, PersistentTpmHandle,
    SessionHandle, TpmHandle,
};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth, Provision};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    CapabilityData, Data, EncryptedSecret, IdObject, MaxBuffer, Private, Public, PublicBuffer,
    SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::{Context, Error};

/// Where a persistent RSA EK lies (TCG TPM v2.0 Provisioning Guidance, table 2).
pub const EK_HANDLE: u32 = 0x8101_0001;

/// Where a persistent storage root key lies; Microsoft's clients make theirs here.
const SRK_HANDLE: u32 = 0x8100_0001;

/// The NV index of the RSA-2048 EK certificate (TCG EK Credential Profile, section 2.2.1.4).
pub const EK_CERTIFICATE_INDEX: u32 = 0x01c0_0002;

/// The NV indices of a maker's intermediate certificates (TCG EK Credential Profile, section 2.2.1.5.2).
const CHAIN_INDICES: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;

/// Most of these indices read, and most bytes in all.
const CHAIN_INDICES_MAX: u32 = 16;
const CHAIN_MAX: usize = 16 << 10;

/// Longest text signed, in bytes: one `TPM2B_MAX_BUFFER`.
const SIGNED_MAX: usize = 1024;

/// Smallest and largest piece of NV memory read at once, in bytes; the TPM says what it takes within that.
const NV_PIECE: std::ops::RangeInclusive<u16> = 64..=1024;

/// What was read from a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// The endorsement key.
    pub endorsement_key: EndorsementKey,
    /// The storage root key: the one persistent at 0x81000001, else the one that Microsoft's client will make
    /// there, which is the same every time.
    pub storage_root_key: StorageKey,
    /// The EK certificate's NV index, up to the end of the certificate; absent where there is no such index.
    pub certificate: Option<Vec<u8>>,
    /// Whether the EK was made persistent by this run.
    pub persisted: bool,
}

/// A device's answer to a challenge; compare it with
/// [`is_met_by`](crate::provision::endorsement::credential::Challenge::is_met_by).
#[derive(Clone, PartialEq, Eq)]
pub struct Rehearsed {
    /// What the credential carried.
    pub activated: Vec<u8>,
    /// HMAC-SHA256 of the text under the key in the challenge.
    pub hmac: Digest,
}

/// Reads endorsement key, EK certificate and storage root key.
pub fn extract(tpm: &mut Context, empty: EmptyHandle) -> Result<Extracted, TpmError> {
    let (ek, persisted) = match open_persistent(tpm, EK_HANDLE)? {
        Some(ek) => (ek, false),
        None => match empty {
            EmptyHandle::Persist => (persist_ek(tpm)?, true),
            EmptyHandle::ClientKey => (create_client_ek(tpm)?, false),
        },
    };
    let endorsement_key = parsed(EK_HANDLE, EndorsementKey::parse(&ek.public))?;
    ek.close(tpm)?;
    // Not the padding behind it.
    let certificate = read_index(tpm, EK_CERTIFICATE_INDEX, sequence_length)?;
    let srk = open_srk(tpm)?;
    let storage_root_key = parsed(SRK_HANDLE, StorageKey::parse(&srk.public))?;
    srk.close(tpm)?;
    Ok(Extracted {
        endorsement_key,
        storage_root_key,
        certificate,
        persisted,
    })
}

/// Reads the intermediate certificates that the TPM carries: the content of their NV indices one after the other, as
/// a certificate may go on in the next. Empty where there are none.
pub fn read_chain(tpm: &mut Context) -> Result<Vec<u8>, TpmError> {
    let first = *CHAIN_INDICES.start();
    let (listed, _) = tpm
        .get_capability(CapabilityType::Handles, first, CHAIN_INDICES_MAX)
        .map_err(failed(TpmTask::FindChain))?;
    let CapabilityData::Handles(listed) = listed else {
        return Ok(Vec::new());
    };
    let listed = listed.as_ref().iter().map(|&handle| u32::from(handle));
    let mut chain = Vec::new();
    for index in listed.filter(|index| CHAIN_INDICES.contains(index)) {
        let content = read_index(tpm, index, |_| None)?;
        chain.extend(content.unwrap_or_default());
        if chain.len() > CHAIN_MAX {
            break;
        }
    }
    chain.truncate(CHAIN_MAX);
    Ok(chain)
}

/// Opens a credential that was made for these two keys.
pub fn activate(
    tpm: &mut Context,
    endorsement_key: &EndorsementKey,
    storage_root_key: &StorageKey,
    credential: &Credential,
) -> Result<Vec<u8>, TpmError> {
    let (ek, srk) = open_both(tpm, endorsement_key, storage_root_key)?;
    let secret = activate_with(tpm, &ek, &srk, credential)?;
    ek.close(tpm)?;
    srk.close(tpm)?;
    Ok(secret)
}

/// Does what a device does on its first boot with DPS's nonce challenge, but persists nothing: opens the
/// credential, imports the HMAC key, signs `text` (at most 1024 bytes) and forgets the key.
pub fn rehearse(
    tpm: &mut Context,
    endorsement_key: &EndorsementKey,
    storage_root_key: &StorageKey,
    challenge: &ChallengeItems,
    text: &str,
) -> Result<Rehearsed, TpmError> {
    if text.len() > SIGNED_MAX {
        return Err(TpmError::TooLong {
            found: text.len(),
            max: SIGNED_MAX,
        });
    }
    let (ek, srk) = open_both(tpm, endorsement_key, storage_root_key)?;
    let activated = activate_with(tpm, &ek, &srk, &challenge.credential)?;
    ek.close(tpm)?;
    let key = import(tpm, &srk, challenge, &activated)?;
    let hmac = with_password(tpm, |tpm| {
        let text = MaxBuffer::try_from(text.as_bytes())?;
        tpm.hmac(key, text, HashingAlgorithm::Sha256)
    })
    .map_err(failed(TpmTask::Hmac))?;
    tpm.flush_context(key).map_err(failed(TpmTask::Flush))?;
    srk.close(tpm)?;
    let hmac = <[u8; 32]>::try_from(hmac.value());
    let hmac = hmac.map_err(|_| TpmError::Malformed {
        command: "HMAC",
        why: ResponseFlaw::Hmac,
    })?;
    Ok(Rehearsed {
        activated,
        hmac: Digest(hmac),
    })
}

/// A key that is open in the TSS.
struct Opened {
    handle: KeyHandle,
    /// `TPM2B_PUBLIC`.
    public: Vec<u8>,
    transient: bool,
}

impl Opened {
    fn close(self, tpm: &mut Context) -> Result<(), TpmError> {
        if self.transient {
            let closed = tpm.flush_context(self.handle.into());
            closed.map_err(failed(TpmTask::Flush))?;
        }
        Ok(())
    }
}

fn open_both(
    tpm: &mut Context,
    endorsement_key: &EndorsementKey,
    storage_root_key: &StorageKey,
) -> Result<(Opened, Opened), TpmError> {
    let ek = match open_persistent(tpm, EK_HANDLE)? {
        Some(ek) => ek,
        None => create_client_ek(tpm)?,
    };
    if ek.public != endorsement_key.tpm2b().0 {
        return Err(TpmError::AnotherKey { handle: EK_HANDLE });
    }
    let srk = open_srk(tpm)?;
    if srk.public != storage_root_key.tpm2b().0 {
        return Err(TpmError::AnotherKey { handle: SRK_HANDLE });
    }
    Ok((ek, srk))
}

fn open_srk(tpm: &mut Context) -> Result<Opened, TpmError> {
    match open_persistent(tpm, SRK_HANDLE)? {
        Some(srk) => Ok(srk),
        None => create(tpm, SRK_HANDLE, Hierarchy::Owner, &SRK_TEMPLATE, 0),
    }
}

fn create_client_ek(tpm: &mut Context) -> Result<Opened, TpmError> {
    create(tpm, EK_HANDLE, Hierarchy::Endorsement, &EK_TEMPLATE, 0)
}

fn persist_ek(tpm: &mut Context) -> Result<Opened, TpmError> {
    let hierarchy = Hierarchy::Endorsement;
    let ek = create(tpm, EK_HANDLE, hierarchy, &EK_TEMPLATE, MODULUS_OCTETS)?;
    let handle = PersistentTpmHandle::new(EK_HANDLE).map_err(failed(TpmTask::NameHandle))?;
    with_password(tpm, |tpm| {
        tpm.evict_control(
            Provision::Owner,
            ek.handle.into(),
            Persistent::Persistent(handle),
        )
    })
    .map_err(failed(TpmTask::Persist))?;
    Ok(ek)
}

/// Opens a persistent key; absent where the handle is empty.
fn open_persistent(tpm: &mut Context, handle: u32) -> Result<Option<Opened>, TpmError> {
    let persistent = PersistentTpmHandle::new(handle).map_err(failed(TpmTask::NameHandle))?;
    let object = match tpm.tr_from_tpm_public(TpmHandle::Persistent(persistent)) {
        Ok(object) => object,
        Err(error) if is_empty_handle(error) => return Ok(None),
        Err(error) => return Err(failed(TpmTask::ReadPersistent)(error)),
    };
    let handle_in_tss = KeyHandle::from(object);
    let (public, name, _) = tpm
        .read_public(handle_in_tss)
        .map_err(failed(TpmTask::ReadPersistent))?;
    opened(handle, handle_in_tss, public, name.value(), false).map(Some)
}

/// Makes a primary key from `head` and a `unique` of so many zero octets.
fn create(
    tpm: &mut Context,
    handle: u32,
    hierarchy: Hierarchy,
    head: &[u8],
    unique: usize,
) -> Result<Opened, TpmError> {
    let size = u16::try_from(unique).expect("no modulus is that long");
    let template = [head, &size.to_be_bytes(), &vec![0; unique]].concat();
    let made = with_password(tpm, |tpm| {
        let template = Public::unmarshall(&template)?;
        tpm.create_primary(hierarchy, template, None, None, None, None)
    })
    .map_err(failed(TpmTask::MakePrimary))?;
    let name = tpm
        .tr_get_name(made.key_handle.into())
        .map_err(failed(TpmTask::NameHandle))?;
    opened(handle, made.key_handle, made.out_public, name.value(), true)
}

fn opened(
    handle: u32,
    handle_in_tss: KeyHandle,
    public: Public,
    name: &[u8],
    transient: bool,
) -> Result<Opened, TpmError> {
    let public = PublicBuffer::try_from(public)
        .and_then(|public| public.marshall())
        .map_err(failed(TpmTask::EncodePublic))?;
    // Both templates have SHA-256 as the name's algorithm; another one is named when the template is compared.
    let digest = Digest::of(&public[2..]);
    if name.starts_with(&[0x00, 0x0b]) && name[2..] != digest.0 {
        return Err(TpmError::Name { handle });
    }
    Ok(Opened {
        handle: handle_in_tss,
        public,
        transient,
    })
}

/// Reads an NV index in as few pieces as the TPM allows, as far as `enough` says by its beginning; absent where there
/// is no such index.
fn read_index(
    tpm: &mut Context,
    index: u32,
    enough: fn(&[u8]) -> Option<usize>,
) -> Result<Option<Vec<u8>>, TpmError> {
    let index = NvIndexTpmHandle::new(index).map_err(failed(TpmTask::ReadNv))?;
    let object = match tpm.tr_from_tpm_public(TpmHandle::NvIndex(index)) {
        Ok(object) => object,
        Err(error) if is_empty_handle(error) => return Ok(None),
        Err(error) => return Err(failed(TpmTask::ReadNv)(error)),
    };
    let index = NvIndexHandle::from(object);
    let (public, _) = tpm.nv_read_public(index).map_err(failed(TpmTask::ReadNv))?;
    let largest = tpm
        .get_tpm_property(PropertyTag::NvBufferMax)
        .map_err(failed(TpmTask::ReadNv))?;
    let largest = largest.and_then(|largest| u16::try_from(largest).ok());
    let piece = largest
        .unwrap_or(*NV_PIECE.end())
        .clamp(*NV_PIECE.start(), *NV_PIECE.end());
    let mut wanted = public.data_size();
    let mut content = Vec::with_capacity(wanted);
    while content.len() < wanted {
        let size = usize::from(piece).min(wanted - content.len());
        let (Ok(size), Ok(offset)) = (u16::try_from(size), u16::try_from(content.len())) else {
            break;
        };
        let read = with_password(tpm, |tpm| {
            tpm.nv_read(NvAuth::NvIndex(index), index, size, offset)
        })
        .map_err(failed(TpmTask::ReadNv))?;
        if read.value().len() != usize::from(size) {
            return Err(TpmError::Malformed {
                command: "NV_Read",
                why: ResponseFlaw::Piece {
                    asked: usize::from(size),
                    found: read.value().len(),
                },
            });
        }
        content.extend_from_slice(read.value());
        wanted = enough(&content).map_or(wanted, |length| length.min(wanted));
    }
    content.truncate(wanted);
    Ok(Some(content))
}

fn activate_with(
    tpm: &mut Context,
    ek: &Opened,
    srk: &Opened,
    credential: &Credential,
) -> Result<Vec<u8>, TpmError> {
    let session = tpm
        .start_auth_session(
            None,
            None,
            None,
            SessionType::Policy,
            SymmetricDefinition::Null,
            HashingAlgorithm::Sha256,
        )
        .map_err(failed(TpmTask::PolicySession))?;
    let Some(session) = session else {
        return Err(TpmError::Bridge("the TSS gave no session".to_owned()));
    };
    let policy = PolicySession::try_from(session).map_err(failed(TpmTask::PolicySession))?;
    with_password(tpm, |tpm| {
        let (none, no_digest) = (Default::default(), Default::default());
        let endorsement = AuthHandle::Endorsement;
        tpm.policy_secret(
            policy,
            endorsement,
            none,
            no_digest,
            Default::default(),
            None,
        )
    })
    .map_err(failed(TpmTask::PolicySecret))?;
    let sessions = (Some(AuthSession::Password), Some(session), None);
    let secret = tpm
        .execute_with_sessions(sessions, |tpm| {
            let id_object = IdObject::try_from(content(&credential.id_object))?;
            let secret = EncryptedSecret::try_from(content(&credential.encrypted_secret))?;
            tpm.activate_credential(srk.handle, ek.handle, id_object, secret)
        })
        .map_err(|error| match error {
            // What the TPM itself says of a handle, a session or a parameter; all else has another cause.
            Error::Tss2Error(Tss2ResponseCode::FormatOne(_)) => TpmError::NotActivated(error),
            error => failed(TpmTask::ActivateCredential)(error),
        })?;
    tpm.flush_context(SessionHandle::from(session).into())
        .map_err(failed(TpmTask::PolicySession))?;
    Ok(secret.value().to_vec())
}

fn import(
    tpm: &mut Context,
    srk: &Opened,
    challenge: &ChallengeItems,
    inner: &[u8],
) -> Result<ObjectHandle, TpmError> {
    let importing = failed(TpmTask::Import);
    with_password(tpm, |tpm| {
        let public = Public::unmarshall(content(&challenge.public))?;
        let private = tpm.import(
            srk.handle.into(),
            Some(Data::try_from(inner)?),
            public.clone(),
            Private::try_from(content(&challenge.duplicate))?,
            EncryptedSecret::try_from(content(&challenge.wrap_secret))?,
            SymmetricDefinitionObject::AES_128_CFB,
        )?;
        tpm.load(srk.handle, private, public)
            .map(ObjectHandle::from)
    })
    .map_err(importing)
}

/// What is in a `TPM2B` behind its size.
fn content(tpm2b: &[u8]) -> &[u8] {
    tpm2b.get(2..).unwrap_or_default()
}

fn with_password<T>(
    tpm: &mut Context,
    f: impl FnOnce(&mut Context) -> Result<T, Error>,
) -> Result<T, Error> {
    tpm.execute_with_session(Some(AuthSession::Password), f)
}

fn is_empty_handle(error: Error) -> bool {
    matches!(error, Error::Tss2Error(code) if code.kind() == Some(Tss2ResponseCodeKind::Handle))
}

fn failed(task: TpmTask) -> impl Fn(Error) -> TpmError {
    move |error| TpmError::Command { task, error }
}

fn parsed<T>(handle: u32, key: Result<T, TemplateFault>) -> Result<T, TpmError> {
    key.map_err(|fault| TpmError::Template { handle, fault })
}
