//! The cryptography of TPM 2.0 credentials in software: MakeCredential, and DPS's nonce challenge for a rehearsal.
//!
//! Invariant: all randomness enters as an argument, but for one exception: the padding of RSA-OAEP is drawn inside
//! aws-lc-rs, which offers no other way; it decides no byte that is compared afterwards.

use super::template::{EndorsementKey, StorageKey, name_of};
use crate::provision::bytes::Digest;
use crate::provision::device::RegistrationId;
pub use crate::provision::fault::NoChallenge;
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::{hmac, iv::FixedLength, rsa};

/// Octets of the key that the credential of a challenge carries.
const INNER_OCTETS: usize = 16;

/// A credential that only the TPM with the endorsement key, holding the named object, can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`, size field included.
    pub id_object: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`, size field included.
    pub encrypted_secret: Vec<u8>,
}

/// The random bytes of one challenge. Never used twice.
#[derive(Clone, Copy)]
pub struct ChallengeSeeds {
    /// What the credential carries: the key of the inner wrap.
    pub inner: [u8; INNER_OCTETS],
    /// Seed of the credential.
    pub credential: [u8; 32],
    /// Obfuscation value of the HMAC key.
    pub obfuscation: [u8; 32],
    /// Seed of the outer wrap.
    pub wrap: [u8; 32],
    /// The HMAC key that the device is given.
    pub key: [u8; 32],
}

/// DPS's nonce challenge, played by the station.
pub struct Challenge {
    /// The six items as DPS sends them in `authenticationKey`, before base64.
    pub blob: Vec<u8>,
    inner: [u8; INNER_OCTETS],
    key: [u8; 32],
}

/// The items of a challenge that a device uses, each with its size field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeItems {
    /// The credential for the endorsement key.
    pub credential: Credential,
    /// `TPM2B_PRIVATE`: the wrapped HMAC key.
    pub duplicate: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET` for the storage root key.
    pub wrap_secret: Vec<u8>,
    /// `TPM2B_PUBLIC` of the HMAC key.
    pub public: Vec<u8>,
}

/// MakeCredential in software: wraps `secret` to `key`, for the object with the name `object`
/// (TPM 2.0 library, part 1, "Credential Protection").
pub fn make_credential(
    key: &StorageKey,
    object: &[u8],
    secret: &[u8],
    seed: &[u8; 32],
) -> Result<Credential, NoChallenge> {
    let encrypted = cfb(&kdfa(seed, b"STORAGE", object, 128), &sized(secret))?;
    let integrity = hmac_sha256(
        &kdfa(seed, b"INTEGRITY", &[], 256),
        &[&encrypted, object].concat(),
    );
    Ok(Credential {
        id_object: sized(&[sized(&integrity), encrypted].concat()),
        encrypted_secret: sized(&oaep(key, seed, b"IDENTITY\0")?),
    })
}

impl Challenge {
    /// Makes the challenge that DPS would send to a device with these two keys
    /// (layout: azure-utpm-c and azure-iot-device provisioning clients; recipe: TPM 2.0 library, part 1, "Duplication").
    pub fn make(
        ek: &EndorsementKey,
        srk: &StorageKey,
        seeds: &ChallengeSeeds,
    ) -> Result<Self, NoChallenge> {
        let credential =
            make_credential(ek.storage(), &srk.name(), &seeds.inner, &seeds.credential)?;
        let public = hmac_key_public(seeds);
        let name = name_of(&public);
        let sensitive = sized(
            &[
                &[0x00, 0x08, 0x00, 0x00][..], // KEYEDHASH, empty authValue
                &sized(&seeds.obfuscation),
                &sized(&seeds.key),
            ]
            .concat(),
        );
        let checksum = Digest::of_parts(&[&sensitive, &name]).0;
        let once = cfb(&seeds.inner, &[sized(&checksum), sensitive].concat())?;
        let twice = cfb(&kdfa(&seeds.wrap, b"STORAGE", &name, 128), &once)?;
        let integrity = hmac_sha256(
            &kdfa(&seeds.wrap, b"INTEGRITY", &[], 256),
            &[&twice[..], &name].concat(),
        );
        let no_uri_data = sized(&[]); // clients refuse a challenge without its sixth item, and use nothing of it
        Ok(Self {
            blob: [
                credential.id_object,
                credential.encrypted_secret,
                sized(&[sized(&integrity), twice].concat()),
                sized(&oaep(srk, &seeds.wrap, b"DUPLICATE\0")?),
                sized(&public),
                no_uri_data,
            ]
            .concat(),
            inner: seeds.inner,
            key: seeds.key,
        })
    }

    /// Whether the device gave back what only the TPM with both keys can know: the credential's content, and the
    /// HMAC-SHA256 of `signed` under the key in the challenge.
    pub fn is_met_by(&self, activated: &[u8], signed: &str, hmac: &Digest) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        activated == self.inner && hmac::verify(&key, signed.as_bytes(), &hmac.0).is_ok()
    }
}

impl ChallengeItems {
    /// Takes a challenge apart.
    pub fn parse(blob: &[u8]) -> Result<Self, NoChallenge> {
        let mut rest = blob;
        let mut items = Vec::with_capacity(6);
        for item in 1..=6 {
            let size = rest
                .first_chunk::<2>()
                .map(|size| 2 + usize::from(u16::from_be_bytes(*size)))
                .ok_or(NoChallenge::Truncated(item))?;
            let (taken, after) = rest
                .split_at_checked(size)
                .ok_or(NoChallenge::Truncated(item))?;
            items.push(taken.to_vec());
            rest = after;
        }
        if !rest.is_empty() {
            return Err(NoChallenge::Trailing);
        }
        let mut items = items.into_iter();
        let mut next = || items.next().unwrap_or_default();
        Ok(Self {
            credential: Credential {
                id_object: next(),
                encrypted_secret: next(),
            },
            duplicate: next(),
            wrap_secret: next(),
            public: next(),
        })
    }
}

/// What the device's TPM signs when it registers: resource and expiry (seconds since 1970), as in DPS's SAS tokens.
pub fn sas_to_sign(id_scope: &str, registration_id: &RegistrationId, expiry: u64) -> String {
    format!("{id_scope}%2fregistrations%2f{registration_id}\n{expiry}")
}

/// `TPMT_PUBLIC` of the HMAC key: KEYEDHASH, SHA-256, userWithAuth, noDA and sign, no policy, HMAC with SHA-256.
fn hmac_key_public(seeds: &ChallengeSeeds) -> Vec<u8> {
    let unique = Digest::of_parts(&[&seeds.obfuscation, &seeds.key]);
    let mut public = vec![
        0x00, 0x08, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x40, 0x00, 0x00, 0x00, 0x05, 0x00, 0x0b,
    ];
    public.extend_from_slice(&sized(&unique.0));
    public
}

/// `TPM2B`: a two-byte size and the bytes; all that is sized here is a constant of a few hundred bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let size =
        u16::try_from(bytes.len()).expect("a TPM2B made here has at most a few hundred bytes");
    [&size.to_be_bytes()[..], bytes].concat()
}

/// KDFa with HMAC-SHA256 and one context value (TPM 2.0 library, part 1, "KDFa"); at most 256 bits.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let counter = 1_u32.to_be_bytes();
    let input = [&counter[..], label, &[0], context, &bits.to_be_bytes()].concat();
    let mut output = hmac_sha256(key, &input);
    output.truncate(bits as usize / 8);
    output
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data).as_ref().to_vec()
}

/// AES-128-CFB128 with a zero IV: every key is used for one message only.
fn cfb(key: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoChallenge> {
    let mut text = plain.to_vec();
    UnboundCipherKey::new(&AES_128, key)
        .and_then(EncryptingKey::cfb128)
        .and_then(|key| {
            let zero = EncryptionContext::Iv128(FixedLength::from([0; 16]));
            key.less_safe_encrypt(&mut text, zero)
        })
        .map_err(|_| NoChallenge::Encryption)?;
    Ok(text)
}

fn oaep(key: &StorageKey, seed: &[u8], label: &[u8]) -> Result<Vec<u8>, NoChallenge> {
    let encrypt = || {
        let key = rsa::PublicEncryptingKey::from_der(&key.spki()).ok()?;
        let key = rsa::OaepPublicEncryptingKey::new(key).ok()?;
        let mut output = vec![0; key.ciphertext_size()];
        let length = key
            .encrypt(&rsa::OAEP_SHA256_MGF1SHA256, seed, &mut output, Some(label))
            .ok()?
            .len();
        output.truncate(length);
        Some(output)
    };
    encrypt().ok_or(NoChallenge::Encryption)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::template::{SRK_TEMPLATE, published};
    use super::*;
    use data_encoding::{BASE64, HEXLOWER};

    /// Two challenges that DPS sent to TPMs long gone (azure-iot-sdk-java, `RegisterResponseTPMParser.java`;
    /// azure-uhttp-c, `http_codec_ut.c`).
    const CAPTURED: [&str; 2] = [
        "ADQAIEIaHWyoUFwtwzRFtc/SrcYFlCat3n3kzQwndE58WWwnu7LYeOBURNP25cw63wJ2E0+PAQAhLOL+j81LidbaSuhc+TvWK5mdrTgzJdBgeHxGgRG+hrxRoiOnx6kMyNlqRi2DEsSRauAbCbs+XZwVLN44+inuS+KTshLtMNlobz/ewF0TAo0vhuU4hmKVToaQ/hcFrRgDOJ+8jp/dApYn4miVnJAhYxwfPR/c2lIQXMN++VOoOkcXTbfj1xaAw62tGJuVP2OHk8P+pacTN+FVICmIEOW7VPuzYqyjjMaPMmAbeq1O7kizzBGC8jJ1D1vf1ZzeikyTy3/eXf/LSCm4yNfWR9/TNN+Xl33pkavSGm0sbosxox1VhgZqScMZyPAPY+iV/Am9iGtOy5jPF/3ZTIHbRsuvAI4AIBx+6ufIGZuFjfPAVpP2ekjyhmxjegXsGR9dTFWot++Q4/GVq4YI683bqojkyPO8X/H3z4yGGd9aPZMgT7Z211cPpVlq7ki7GAL3fWVdodw41GqjYsGL9Nn3n27W6djiIQAxkiu6jRvIW26QZYPjGgr1ZC4MDkV+aO1GKCotU43mFZs0jUFZ9D4qAlyrAQBZ/AwCB4F3YmncQTCp764BnVjGI/Xo4wTn+EMOU/VckvgV1xkHBp2IJHj586+BEGYjyTFdPeTkymD9ASGTX7mFCjGgwn8ArwREcT5Kxv6AF4hQINeR1ixZ4cL5GMttXIbDO/WygHjQqefhk3+17Zbv11dopSRhvO0dPF/+wQXml+0C62I3qtNcOco/fWyZiql2WQBbV2tuGChxfrXXkvGYPtiI1kzWrZUf9u8Wsv45q0KX5DbINqgqJ2vgAjvNBe35TR1sEoQBd0A+TPcVS2BeBQEVA01NjaRlijs88woCLe2BUwd5XEiMgDsrHVo8YRozOGs68AnP8nhAVqlMLyzbADAACAALAAQEQAAAAAUACwAgF9L3I1ZVCByjzEOGfp4w4tCGYYLxv1ZGb/Xl+whFEi0AmlJeuO9LZSq3XV2hZGBUfRdkNpfckWlZaY9bLkpJs6vse0VUb8Pu7czw56/kD0Fmrfpmwulo6ZtUlyuZGX0J9ETbYF7XHqTVxt5kyj4Fj67ttpz3B/RmToeTgjDNj5tdHKEtW2gruKz9zuE3qn+mHJhg/PhYGLPQ1h1UpGJd/2mZzLy7jD0M/tExrO+bXVF607AzrzDONRXnMRY=",
        "ADQAIIvHKlrqd0xE1r7NQXDB/IrVsCBXBjvQxhkR+DLUngtYEL36OLX3Id8pN2N4pIGDj8FDAQA6P1J6aDVixNB5TMiO5D9Kx7tvsqjju31eoSTIfIn37Ud2tm2lvv3FeAzauG40YEUgEymyLgzw74I0rIJYhWhSzKgacFx7q05TCh0NvaZ8X28cRPMlhhmsYzfNzGnNMDQgj/5n5XZkvznkf7MLh+USrFS6Q0mkZrUWrMl2iHuYn7HUIxRaEmb5Srk4YIRyXbdUwKP9fiUPPIk984ufKxy7kbrod9xFV7PDL2eX9Hb12XWDxIUP2V2IIgUviyCbXKsuMrM3v0jgD88VJfSpjQcvxBN/lm7Q3IUjgsgaDCmod98XH/7Rj/yBiv3nTK93gi91bayAim3+1MbvD7UfQALtAI4AIOeBYtB+qk+2vbILTHVw8Rv6e+jgnkiZhQyxoahFBQ5EbEbEZQgwo9voYrYLuLbPf4GU2yl0Hqvlu5MC5gfhzSAFF26TsPT1AyPbWTsDwG3EKceHJGNe1WgzmL3TMB2wcSw3d/rI/qORtw6EiCE6REVav5i8rnAWmVB7G2Pap/TW+j54terM0CbsS+0ZAQBAHTflOCaVGPpKP/PwKdzOhMKh/FVW0MfNtJoN1bvP+eYEgbOnAPX7nG7bum2UktgDiZx7rx75tOFUQ6HlUgnQmwrr+CAdGQK+hOu9KjUgzAbOdnCtGNBE5W2ufEpByCp3g7kBBh6duJN5B69xP+FtdMZ/l2FbLeYPjIKt3C5d55rlsyfuiTZw414u4DQngSdAvjFUs1UH62CBJcX+gJLQ6B3w0vnE9Mih1mrnuVwoz5e6JWaacG70IZu3SWj0SQbAapK3GxkGxQAXU/WtVHpgNDxrkiLG1yQiqISkXCMVeqoZVolcwF5fSwgzbppMlLY+sDGuAwU8xqNVyn6nPcaXADAACAALAAQEQAAAAAUACwAg/yMycoNJTM2h1DGjguQccuxhy+pHvv4XNTdZYizhwX4AvrHKBGZ78zk2Wlk+7R3OS6mY2S92u9wjDU4N4PMWS4CdT5sxXH7dkYp7jbvhN+8GiYmsoPePQLg30Eqv9wf9DJaHBbJOKHTyKQbMiavospzvOxQj/46KRRxgaHadzAwwjaF9Z8VqxqjhgruNXzySjdmRyDXliAqPgGbEPl1cj1zLjegUCch+8PYTUnukiF7SR5tVAYeOO/W2L9qyYBtsLpOWHPIRXj0AvnC/eZuxaWAif9R/ulcC41nH9S8feWA=",
    ];

    fn running<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|i| first + u8::try_from(i).unwrap())
    }

    fn keys() -> (EndorsementKey, StorageKey) {
        let ek = published();
        let mut srk = vec![0x01, 0x1a];
        srk.extend_from_slice(&SRK_TEMPLATE);
        srk.extend_from_slice(&ek[58..]);
        (
            EndorsementKey::parse(&ek).unwrap(),
            StorageKey::parse(&srk).unwrap(),
        )
    }

    fn seeds() -> ChallengeSeeds {
        ChallengeSeeds {
            inner: running(0x00),
            credential: running(0x10),
            obfuscation: running(0x30),
            wrap: running(0x50),
            key: running(0xa0),
        }
    }

    #[test]
    fn the_deterministic_items_are_those_that_tpms_accept() {
        let (ek, srk) = keys();
        let name = "000b650c800bd3c379d8bc51249fe71f0e6ddb24a184c37d712c74f9cac1cb545da0";
        assert_eq!(HEXLOWER.encode(&srk.name()), name);
        let challenge = Challenge::make(&ek, &srk, &seeds()).unwrap();
        assert_eq!(challenge.blob.len(), 766);
        let items = ChallengeItems::parse(&challenge.blob).unwrap();
        assert_eq!(
            HEXLOWER.encode(&items.credential.id_object),
            "003400202a393c26d34ca8ea8f3433b69e424e170d901e3d27fcdc4a3815075bca96b442dbd0cfed7705b619e18c07bd6dedf9ad0e5e"
        );
        assert_eq!(
            HEXLOWER.encode(&items.public),
            "00300008000b0004044000000005000b002087ecf0fba2751f7d9718b756cde19880d846b14308db07d9a7e193d772cf1048"
        );
        assert_eq!(
            HEXLOWER.encode(&items.duplicate),
            "008e0020e084664e9c4b295838c23407bdebae7df95b315a34c0894c320bc0b1e35c4fd1051cc5f0cf872639be4642745745cdfcf754e2c5a4fe5cb523bcaaaa286928d889782bcd054554579f2dd618602a2cd2dd8d50211f88495aa8863c213c759384c70369a60fecd9b5b6041973e172eede77e331920c25b76d3e62fe509f705550176106eacf72d88d438eae12"
        );
        assert_eq!(items.credential.encrypted_secret.len(), 258);
        assert_eq!(items.wrap_secret.len(), 258);
    }

    #[test]
    fn captured_challenges_have_the_shape_of_ours() {
        for capture in CAPTURED {
            let blob = BASE64.decode(capture.as_bytes()).unwrap();
            let items = ChallengeItems::parse(&blob).unwrap();
            assert_eq!(items.credential.id_object.len(), 54);
            assert_eq!(items.duplicate.len(), 144);
            assert_eq!(items.public.len(), 50);
            let (ek, srk) = keys();
            let ours = Challenge::make(&ek, &srk, &seeds()).unwrap();
            let ours = ChallengeItems::parse(&ours.blob).unwrap();
            assert_eq!(items.public[..18], ours.public[..18]);
            let short = &blob[..blob.len() - 1];
            assert_eq!(ChallengeItems::parse(short), Err(NoChallenge::Truncated(6)));
            let long = [&blob[..], &[0]].concat();
            assert_eq!(ChallengeItems::parse(&long), Err(NoChallenge::Trailing));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..1200),
        ) {
            let _ = ChallengeItems::parse(&bytes);
        }
    }

    #[test]
    fn only_both_answers_meet_a_challenge() {
        let (ek, srk) = keys();
        let challenge = Challenge::make(&ek, &srk, &seeds()).unwrap();
        let id = RegistrationId::parse("gw-1").unwrap();
        let sas = sas_to_sign("0ne0001", &id, 1_700_000_000);
        assert_eq!(sas, "0ne0001%2fregistrations%2fgw-1\n1700000000");
        let hmac = hmac_sha256(&seeds().key, sas.as_bytes());
        let hmac = Digest(hmac.try_into().unwrap());
        let inner = seeds().inner;
        assert!(challenge.is_met_by(&inner, &sas, &hmac));
        assert!(!challenge.is_met_by(&inner[1..], &sas, &hmac));
        assert!(!challenge.is_met_by(&inner, "another", &hmac));
        assert!(!challenge.is_met_by(&inner, &sas, &Digest([0; 32])));
    }
}
